"""The decoder's measured speed: its figure and the data of its section."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ease_jax.report import figures, svg, tables

# Less than this is within what clocks and other programs do to a number.
MIN_SPEEDUP = 1.02

_WITHOUT: figures.Style = dict(
  color=svg.INK, marker='s', ms=5.5, mfc=svg.PAPER, mew=1.1, ls=''
)
_WITH: figures.Style = dict(
  color=svg.SERIES[0], marker='o', ms=5, mec=svg.PAPER, mew=0.6, ls=''
)


def section(results: dict[str, Any], segments: int) -> dict[str, Any] | None:
  """What the page says about speed; None where it was not measured."""
  speed = results.get('speed')
  if not speed:
    return None
  full, chosen = speed['points'][0], _chosen(speed)
  return {
    **speed,
    'full': full,
    'best': chosen,
    'exits': not figures.is_never(chosen['threshold']),
    'saves': chosen['speedup'] >= MIN_SPEEDUP,
    'hidden': len(_shown(speed)) < len(speed['points']),
    'points': [
      {
        **p,
        'name': tables.threshold_text(p['threshold']),
        'kept': p['speedup'] / p['expected_speedup'],
      }
      for p in speed['points']
    ],
    'break_even': [
      {**r, 'name': figures.cell_name(r, segments), 'verdict': _verdict(r)}
      for r in speed['break_even']
    ],
  }


def _chosen(speed: dict[str, Any]) -> dict[str, Any]:
  """The chosen point; where exits are off, the model without them."""
  points = speed['points']
  return next((p for p in points if p['chosen']), points[0])


def _shown(speed: dict[str, Any]) -> list[dict[str, Any]]:
  """The points of the figure: others would flatten the part that matters."""
  return [
    p
    for p in speed['points']
    if p['chosen'] or p['ppl_vs_full'] <= figures.PPL_VIEW
  ]


def _verdict(readout: dict[str, Any]) -> str:
  if not readout['active']:
    return 'never asked'
  pays = readout['stopped'] > readout['needed']
  return 'pays' if pays else 'does not pay'


def _style(point: dict[str, Any]) -> figures.Style:
  return _WITHOUT if point['threshold'] is None else _WITH


def _plot_rates(ax: Axes, speed: dict[str, Any]) -> None:
  """Tokens per second, with quartiles, against perplexity."""
  for p in _shown(speed):
    style, x = _style(p), p['ppl']
    ax.vlines(
      x,
      p['tokens_per_second_low'],
      p['tokens_per_second_high'],
      lw=0.9,
      color=style['color'],
    )
    ax.plot([x], [p['tokens_per_second']], zorder=3, **style)
  ax.ticklabel_format(style='plain', useOffset=False)
  ax.margins(0.09)
  ax.locator_params(nbins=5)
  ax.set_xlabel(f'perplexity ({speed["split"]})')
  ax.set_title('tokens per second')


def _plot_speedups(ax: Axes, speed: dict[str, Any]) -> None:
  """Measured against expected speed-up; on the diagonal they agree."""
  points = _shown(speed)
  for p in points:
    ax.plot([p['expected_speedup']], [p['speedup']], zorder=3, **_style(p))
  values = [p[k] for p in points for k in ('expected_speedup', 'speedup')]
  room = 0.09 * max(max(values) - min(values), 0.1)
  limits = (min(values) - room, max(values) + room)
  ax.plot(limits, limits, lw=0.9, zorder=1, **figures.GUIDE)
  # A little above the line, and before its end, where it would be cut off.
  x, y = (limits[0] + f * (limits[1] - limits[0]) for f in (0.95, 0.965))
  ax.text(
    x,
    y,
    'as expected',
    rotation=45,
    transform_rotates_text=True,
    rotation_mode='anchor',
    ha='right',
    va='bottom',
    fontsize=8,
    alpha=0.75,
  )
  ax.set(xlim=limits, ylim=limits)
  ax.locator_params(nbins=5)
  ax.set_xlabel('expected speed-up (FLOPs)')
  ax.set_title('measured speed-up')


@svg.themed
def measured(speed: dict[str, Any], width: float = figures.WIDE) -> Figure:
  """What exits gain on the clock, and how much of what FLOPs promise."""
  wide = width > 5
  figure = Figure(figsize=(width, 3.6 if wide else 6.6))
  rates, speedups = figure.subplots(
    *((1, 2) if wide else (2, 1)), gridspec_kw={'wspace': 0.08, 'hspace': 0.08}
  )
  _plot_rates(rates, speed)
  _plot_speedups(speedups, speed)
  handles = [
    Line2D([], [], label='without exits', **_WITHOUT),
    Line2D([], [], label='with exits', **_WITH),
  ]
  best = _chosen(speed)
  if not figures.is_never(best['threshold']):
    figures.mark_chosen(rates, best['ppl'], best['tokens_per_second'])
    handles.append(
      figures.mark_chosen(speedups, best['expected_speedup'], best['speedup'])
    )
  figure.legend(
    handles=handles, loc='outside lower left', ncols=3, fontsize=8.2
  )
  return figure
