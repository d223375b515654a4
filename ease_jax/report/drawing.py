"""What the figures have in common: sizes, names, marks and guide lines.

A figure is a function of a run's data and of a width in inches, because the
page shows a wide drawing on a screen and a narrow one on a phone, with letters
of the same size.
"""

from typing import Any, Protocol

from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ease_jax.report import svg

Style = dict[str, Any]  # keyword arguments of a drawing

WIDE = 7.4
NARROW = 4.1
BROAD = 5.0  # a figure of more inches has room beside its axes
MARKERS = 'osD^vP'
# Perplexity is shown up to so many times that of full depth: what lies above
# is no operating point, and would flatten the part that matters.
PPL_VIEW = 1.15

# A line that says where points would be, drawn behind them.
GUIDE: Style = dict(color=svg.INK, ls=(0, (4, 3)), alpha=0.6)

# Words beside a mark.
NOTE: Style = dict(textcoords='offset points', fontsize=8, alpha=0.75)

LEGEND: Style = dict(loc='outside lower left', fontsize=8.2)


def _percent(value: float, position: int | None) -> str:
  del position
  return f'{100 * value:.0f}\u202f%'


PERCENT = ticker.FuncFormatter(_percent)


class Cell(Protocol):
  """Whatever has a readout's place on the grid, both from 1."""

  @property
  def segment(self) -> int: ...

  @property
  def layer(self) -> int: ...


def cell_name(cell: Cell, segments: int) -> str:
  """What a reader calls a readout of a model with so many segments."""
  layer = f'layer {cell.layer}'
  return f'segment {cell.segment}, {layer}' if segments > 1 else layer


def series(number: int) -> Style:
  """Colour and marker of the curve of that number."""
  return dict(
    color=svg.SERIES[number % len(svg.SERIES)],
    marker=MARKERS[number % len(MARKERS)],
    mec=svg.PAPER,
    mew=0.6,
  )


def label(name: str) -> str:
  """A name as a legend shows it; matplotlib hides those that begin with _."""
  return f'\u200b{name}' if name.startswith('_') else name


def key(name: str, **style: Any) -> Line2D:
  """A line of a legend."""
  return Line2D([], [], label=label(name), **style)


def mark_chosen(ax: Axes, x: float, y: float) -> Line2D:
  """Draws a ring around the chosen point; returns its line of the legend."""
  style: Style = dict(
    marker='o',
    mfc='none',
    mec=svg.DEPTH,
    mew=2.2,
    ls='',
  )
  ax.plot([x], [y], ms=13, zorder=7, **style)
  return key('chosen point', ms=9, **style)
