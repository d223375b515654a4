"""The decoder's measured speed: its figure and the data of its section."""

import dataclasses

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ease_jax.evaluate.results import (
  BreakEven,
  Results,
  Speed,
  SpeedPoint,
  exits_early,
)
from ease_jax.report import drawing, svg, tables

# Less than this is within what clocks and other programs do to a number.
MIN_SPEEDUP = 1.02

_WITHOUT: drawing.Style = dict(
  color=svg.INK,
  marker='s',
  ms=5.5,
  mfc=svg.PAPER,
  mew=1.1,
  ls='',
)
_WITH: drawing.Style = dict(
  color=svg.SERIES[0],
  marker='o',
  ms=5,
  mec=svg.PAPER,
  mew=0.6,
  ls='',
)


@dataclasses.dataclass(frozen=True)
class Section:
  """What the page says about speed.

  Attributes:
    data: the measurement.
    full: the point without exits.
    best: the chosen point; where exits are off, the one without them.
    exits: whether the chosen point lets tokens stop early.
    saves: whether it is faster than without exits, on the clock.
    hidden: whether a point is in the table only.
    points: rows of the table.
    break_even: rows of the table of readouts.
  """

  data: Speed
  full: SpeedPoint
  best: SpeedPoint
  exits: bool
  saves: bool
  hidden: bool
  points: tuple['PointRow', ...]
  break_even: tuple['BreakEvenRow', ...]


@dataclasses.dataclass(frozen=True)
class PointRow:
  """A setting: its name, and how much of the promised speed-up was kept."""

  data: SpeedPoint
  name: str
  kept: float


@dataclasses.dataclass(frozen=True)
class BreakEvenRow:
  """A readout: its name, and whether asking there pays."""

  data: BreakEven
  name: str
  verdict: str


def section(results: Results) -> Section | None:
  """What the page says about speed; None where it was not measured."""
  speed = results.speed
  if speed is None:
    return None

  best = _chosen(speed)
  segments = results.model.segments
  names = tables.threshold_texts(
    [point.to_json()['threshold'] for point in speed.points]
  )
  kept = [point.speedup / point.expected_speedup for point in speed.points]
  return Section(
    data=speed,
    full=speed.points[0],
    best=best,
    exits=exits_early(best.point),
    saves=best.speedup >= MIN_SPEEDUP,
    hidden=len(_shown(speed)) < len(speed.points),
    points=tuple(map(PointRow, speed.points, names, kept)),
    break_even=tuple(_break_even_row(r, segments) for r in speed.break_even),
  )


def _break_even_row(readout: BreakEven, segments: int) -> BreakEvenRow:
  name = drawing.cell_name(readout, segments)
  if not readout.active:
    return BreakEvenRow(readout, name, 'never asked')
  pays = readout.stopped > readout.needed
  return BreakEvenRow(readout, name, 'pays' if pays else 'does not pay')


def _chosen(speed: Speed) -> SpeedPoint:
  """The chosen point; where exits are off, the model without them."""
  chosen = [point for point in speed.points if point.chosen]
  return chosen[0] if chosen else speed.points[0]


def _shown(speed: Speed) -> list[SpeedPoint]:
  """The points of the figure: others would flatten the part that matters."""
  return [
    point
    for point in speed.points
    if point.chosen or point.ppl_vs_full <= drawing.PPL_VIEW
  ]


def _style(point: SpeedPoint) -> drawing.Style:
  return _WITHOUT if point.point is None else _WITH


@svg.themed
def measured(results: Results, width: float = drawing.WIDE) -> Figure:
  """What exits gain on the clock, and how much of what FLOPs promise."""
  speed = results.speed
  assert speed is not None
  broad = width > drawing.BROAD

  figure = Figure(figsize=(width, 3.6 if broad else 6.6))
  rates, speedups = figure.subplots(
    nrows=1 if broad else 2,
    ncols=2 if broad else 1,
    gridspec_kw={'wspace': 0.08, 'hspace': 0.08},
  )
  _plot_rates(rates, speed)
  rates.set_xlabel(f'perplexity ({results.chosen.report_split})')
  _plot_speedups(speedups, speed)

  handles = [
    drawing.key('without exits', **_WITHOUT),
    drawing.key('with exits', **_WITH),
  ]
  best = _chosen(speed)
  if exits_early(best.point):
    drawing.mark_chosen(rates, best.ppl, best.tokens_per_second)
    ring = drawing.mark_chosen(speedups, best.expected_speedup, best.speedup)
    handles.append(ring)
  figure.legend(handles=handles, ncols=3, **drawing.LEGEND)
  return figure


def _plot_rates(ax: Axes, speed: Speed) -> None:
  """Tokens per second, with quartiles, against perplexity."""
  for point in _shown(speed):
    style = _style(point)
    ax.vlines(
      point.ppl,
      point.tokens_per_second_low,
      point.tokens_per_second_high,
      lw=0.9,
      color=style['color'],
    )
    ax.plot([point.ppl], [point.tokens_per_second], zorder=3, **style)

  ax.ticklabel_format(style='plain', useOffset=False)
  ax.margins(0.09)
  ax.locator_params(nbins=5)
  ax.set_title('tokens per second')


def _plot_speedups(ax: Axes, speed: Speed) -> None:
  """Measured against expected speed-up; on the diagonal they agree."""
  values = []
  for point in _shown(speed):
    style = _style(point)
    ax.plot([point.expected_speedup], [point.speedup], zorder=3, **style)
    values += [point.expected_speedup, point.speedup]

  room = 0.09 * max(max(values) - min(values), 0.1)
  low = min(values) - room
  high = max(values) + room
  ax.plot((low, high), (low, high), lw=0.9, zorder=1, **drawing.GUIDE)

  # A little above the line, and before its end, where it would be cut off.
  ax.text(
    low + 0.95 * (high - low),
    low + 0.965 * (high - low),
    'as expected',
    rotation=45,
    transform_rotates_text=True,
    rotation_mode='anchor',
    ha='right',
    va='bottom',
    fontsize=8,
    alpha=0.75,
  )
  ax.set(xlim=(low, high), ylim=(low, high))
  ax.locator_params(nbins=5)
  ax.set_xlabel('expected speed-up (FLOPs)')
  ax.set_title('measured speed-up')
