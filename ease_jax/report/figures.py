"""Smaller figures: where tokens stop, calibration, training, segments."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ease_jax.evaluate.reliability import GateRow
from ease_jax.evaluate.results import Calibration, Results
from ease_jax.report import drawing, svg

Event = dict[str, Any]  # a line of metrics.jsonl


@svg.themed
def exit_histogram(results: Results, width: float = drawing.WIDE) -> Figure:
  """Where tokens stop at the chosen point."""
  fractions = results.chosen.report.cost.exit_fraction
  num = len(fractions)

  figure = Figure(figsize=(width, 0.55 + 0.33 * num))
  ax = figure.subplots()
  ax.grid(False)
  for k, fraction in enumerate(fractions):
    fill = (svg.DEPTH, svg.shade(k, num))
    ax.barh(
      k,
      fraction,
      height=0.74,
      fc=fill,
      ec=svg.DEPTH,
      lw=0.8,
    )
    ax.annotate(
      f'{100 * fraction:.1f}\u202f%',
      (fraction, k),
      (5, 0),
      textcoords='offset points',
      va='center_baseline',
    )

  segments = results.model.segments
  names = [drawing.cell_name(row, segments) for row in results.readouts]
  ax.set_yticks(range(num), names)
  ax.set_xlim(0, 1.16 * max(fractions))
  ax.set_ylim(num - 0.4, -0.6)
  ax.set_xticks([])
  ax.spines[['bottom', 'left']].set_visible(False)
  ax.set_title('tokens answered by each readout')
  return figure


def _panels(
  num: int, width: float, *, shared: bool
) -> tuple[Figure, list[Axes]]:
  """A figure of so many square panels in rows; shared: on the same axes."""
  columns = min(num, 4 if width > drawing.BROAD else 2)
  rows = math.ceil(num / columns)
  side = width / columns

  figure = Figure(figsize=(width, rows * side * 1.12 + 0.2))
  axes = figure.subplots(
    rows, columns, sharex=shared, sharey=shared, squeeze=False
  )
  for ax in axes.flat[num:]:
    ax.remove()
  return figure, list(axes.flat[:num])


@svg.themed
def reliability(results: Results, width: float = drawing.WIDE) -> Figure:
  """Is the probability of the prediction the chance that it is right?"""
  items = results.calibration
  figure, axes = _panels(len(items), width, shared=True)
  for ax, item in zip(axes, items):
    _reliability_panel(ax, item, results.model.segments)

  figure.supxlabel('confidence', fontsize=9.5)
  figure.supylabel('accuracy', fontsize=9.5)
  return figure


@svg.themed
def gates(results: Results, width: float = drawing.WIDE) -> Figure:
  """Does what gates foretell happen? A panel for each gate and readout."""
  items = results.gates
  figure, axes = _panels(len(items), width, shared=False)
  for ax, item in zip(axes, items):
    _gate_panel(ax, item, results.model.segments)

  figure.supxlabel('foretold', fontsize=9.5)
  figure.supylabel('happened', fontsize=9.5)
  return figure


def _gate_panel(ax: Axes, item: GateRow, segments: int) -> None:
  foretold = [part.foretold for part in item.bins]
  happened = [part.happened for part in item.bins]
  ends = [min(*foretold, *happened), max(*foretold, *happened)]

  ax.plot(ends, ends, lw=0.8, **drawing.GUIDE)
  ax.plot(
    foretold,
    happened,
    color=svg.SERIES[0],
    lw=1.4,
    marker='o',
    ms=4,
    mec=svg.PAPER,
    mew=0.5,
  )
  name = drawing.cell_name(item, segments)
  ax.set_title(f'{item.signal}, {name}', fontsize=8.8)
  ax.xaxis.set_major_locator(ticker.MaxNLocator(3))
  ax.yaxis.set_major_locator(ticker.MaxNLocator(3))


def _reliability_panel(ax: Axes, item: Calibration, segments: int) -> None:
  confidence = [b.confidence for b in item.bins]
  accuracy = [b.accuracy for b in item.bins]
  total = sum(b.count for b in item.bins)

  colour = svg.SERIES[0]
  ax.plot([0, 1], [0, 1], lw=0.8, **drawing.GUIDE)
  ax.plot(confidence, accuracy, color=colour, lw=1.4, zorder=3)
  # The area of a dot is its share of the tokens.
  area = [8 + 260 * b.count / total for b in item.bins]
  fill = (colour, 0.35)
  ax.scatter(
    confidence,
    accuracy,
    s=area,
    fc=fill,
    ec=colour,
    lw=0.9,
    zorder=4,
  )

  name = drawing.cell_name(item, segments)
  ax.set_title(f'{name}   ECE {item.ece:.3f}', fontsize=8.8)
  ax.set(xlim=(-0.04, 1.06), ylim=(-0.04, 1.06), aspect='equal')
  ax.set_xticks([0, 0.5, 1])
  ax.set_yticks([0, 0.5, 1])


@svg.themed
def training_curves(
  metrics: Sequence[Event], width: float = drawing.WIDE
) -> Figure:
  """Loss against steps, on every split that was measured."""
  figure = Figure(figsize=(width, 2.9))
  ax = figure.subplots()
  curves = _losses(metrics)

  for number, name in enumerate(_train_first(curves)):
    dense = name == 'train'
    ax.plot(
      *zip(*sorted(curves[name].items())),
      label='train: what is minimised' if dense else f'{name}: last readout',
      color=svg.SERIES[number % len(svg.SERIES)],
      lw=1.2 if dense else 1.8,
      marker='' if dense else 'o',
      ms=4.5,
      mec=svg.PAPER,
      mew=0.6,
    )

  ax.set_xlabel('step')
  ax.set_title('loss (nats per token)')
  ax.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
  if curves:
    ax.legend(loc='best')
  return figure


def _losses(metrics: Sequence[Event]) -> dict[str, dict[int, float]]:
  """Split -> step -> loss."""
  curves: dict[str, dict[int, float]] = {}
  for event in metrics:
    if 'loss' in event and 'split' in event:
      # A resumed run repeats steps; the later line stands.
      curves.setdefault(event['split'], {})[event['step']] = event['loss']
  return curves


def _train_first(names: Iterable[str]) -> list[str]:
  def order(name: str) -> tuple[bool, str]:
    return name != 'train', name

  return sorted(names, key=order)


@svg.themed
def segments(results: Results, width: float = drawing.WIDE) -> Figure:
  """Does refinement go on after the segments it was trained for?"""
  figure = Figure(figsize=(width, 2.9))
  ax = figure.subplots()
  number_of_segments = [row.segments for row in results.segments]

  curves = {
    results.chosen.select_split: [row.select.ppl for row in results.segments],
    results.chosen.report_split: [row.report.ppl for row in results.segments],
  }
  for number, (name, ppls) in enumerate(curves.items()):
    style = drawing.series(number)
    ax.plot(
      number_of_segments,
      ppls,
      ms=5,
      lw=1.8,
      label=name,
      **style,
    )

  trained = results.model.segments
  ax.axvline(trained, lw=0.9, **drawing.GUIDE)
  ax.annotate(
    'trained',
    (trained, 1),
    (4, -4),
    xycoords=('data', 'axes fraction'),
    va='top',
    **drawing.NOTE,
  )
  ax.set_xlabel('segments run')
  ax.set_title('perplexity at full depth')
  ax.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
  ax.legend(loc='upper right')
  return figure
