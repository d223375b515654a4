"""Tables of repeated layers on a study's page."""

from ease_jax.report import words
from ease_jax.report.comparison import Comparison, Depth, Recovery
from ease_jax.report.tables import spread

RECOVERED = (
  'variant',
  'from',
  'to',
  'seeds',
  'recovered',
  '95 % interval',
  'φ',
)
DEPTHS = (
  'variant',
  'runs',
  'seeds',
  'test ppl',
  'trained for so many',
  'its test ppl',
  'change [95 %]',
)


def recovered(comparison: Comparison) -> list[list[str]]:
  """Rows under RECOVERED."""
  return [_recovered(row) for row in comparison.recoveries]


def _recovered(row: Recovery) -> list[str]:
  interval = ''
  if row.interval is not None:
    low, high = row.interval.low, row.interval.high
    interval = f'{100 * low:.0f} to {100 * high:.0f} %'
  return [
    row.variant,
    row.fewer,
    row.own,
    str(len(row.seeds)),
    f'{100 * row.share:.0f} %',
    interval,
    '' if row.exponent is None else f'{row.exponent:.2f}',
  ]


def depths(comparison: Comparison) -> list[list[str]]:
  """Rows under DEPTHS."""
  return [_depth(row) for row in comparison.depths]


def _depth(row: Depth) -> list[str]:
  return [
    row.variant,
    str(row.run),
    str(len(row.seeds)),
    spread(row.ppl),
    row.twin,
    spread(row.twin_ppl),
    words.change(row.ratio, row.interval),
  ]
