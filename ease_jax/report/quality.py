"""The main figure: perplexity against compute, on the split that reports."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ease_jax.core.policies import RECOMPUTE
from ease_jax.evaluate.results import REPORT, Results, SweepRow
from ease_jax.report import drawing, svg
from ease_jax.report.drawing import Style

Curve = list[tuple[float, float]]  # (compute, perplexity)

CHARGED: Style = dict(lw=1, ls=(0, (3, 2.5)))


@svg.themed
def quality_vs_compute(results: Results, width: float = drawing.WIDE) -> Figure:
  """Curves of every signal, the chosen point, and what bounds them."""
  full = results.off(REPORT).quality.ppl
  chosen = results.chosen
  broad = width > drawing.BROAD

  figure = Figure(figsize=(width, 4.9 if broad else 5.3))
  ax = figure.subplots()
  handles = _plot_signals(ax, results)

  # The view: what is drawn so far, unless it is far too bad.
  here = (chosen.report.cost.compute, chosen.report.quality.ppl)
  inside = [*_points_below(ax, drawing.PPL_VIEW * full), here]
  ppls = [ppl for _, ppl in inside]
  top = max(full * 1.02, *ppls)
  height = top - min(full, *ppls)
  bottom = top - 1.13 * height
  # The frontier goes on below; a part of it must not flatten the rest.
  clairvoyant = clairvoyant_curve(results)
  lowest = min([bottom, *(ppl for _, ppl in clairvoyant)])
  bottom = min(bottom, max(lowest, full - 0.6 * (top - full)))
  top += 0.06 * height

  handles.append(_plot_static(ax, results, top))
  if clairvoyant:
    handles.append(_plot_clairvoyant(ax, clairvoyant))
  if chosen.exits:
    handles.append(drawing.mark_chosen(ax, *here))
  _draw_full_depth(ax, full)

  computes = [1.0]
  computes += [compute for compute, _ in inside]
  computes += [x for x, ppl in clairvoyant if bottom <= ppl <= top]
  ax.set_xlim(min(computes) - 0.04, max(computes) + 0.06)
  ax.set_ylim(bottom, top)
  ax.xaxis.set_major_formatter(drawing.PERCENT)
  ax.set_xlabel('compute per token, relative to full depth')
  ax.set_title(f'perplexity ({chosen.report_split})')
  figure.legend(handles=handles, ncols=3 if broad else 2, **drawing.LEGEND)
  return figure


def _points_below(ax: Axes, ppl: float) -> Curve:
  """All points of the lines drawn so far up to this perplexity."""
  points = [
    tuple(p) for line in ax.lines for p in np.asarray(line.get_xydata())
  ]
  return [(x, y) for x, y in points if y <= ppl]


def swept(results: Results) -> list[str]:
  """The signals of the sweep, each once, in its order."""
  points = [row.point for row in results.sweep if row.point is not None]
  return list(dict.fromkeys(point.signal for point in points))


def _rows(
  results: Results, signal: str, policy: str, searched: bool
) -> list[SweepRow]:
  """The report split's rows with one threshold, or with one per readout."""
  return [
    row
    for row in results.sweep
    if row.split == REPORT
    and row.point is not None
    and row.point.signal == signal
    and row.point.policy == policy
    and isinstance(row.point.threshold, tuple) == searched
  ]


def _curve(rows: Sequence[SweepRow]) -> Curve:
  return [(row.cost.compute, row.quality.ppl) for row in rows]


def scalar_curve(results: Results, signal: str, policy: str) -> Curve:
  """Points with one threshold, in its order, which ends at exits off."""

  def threshold(row: SweepRow) -> float:
    assert row.point is not None
    assert not isinstance(row.point.threshold, tuple)
    return row.point.threshold

  rows = sorted(_rows(results, signal, policy, False), key=threshold)
  return _curve([*rows, results.off(REPORT)])


def searched_curve(results: Results, signal: str, policy: str) -> Curve:
  """Points with a threshold for each readout, in the order of compute."""
  points = set(_curve(_rows(results, signal, policy, True)))
  return sorted(points)


def clairvoyant_curve(results: Results) -> Curve:
  """From the lowest perplexity to the lowest compute."""
  return [
    (row.cost.compute, row.quality.ppl)
    for row in results.clairvoyant
    if row.split == REPORT
  ]


def _plot_signals(ax: Axes, results: Results) -> list[Line2D]:
  """One colour per signal; returns the legend of colours and lines."""
  policy = results.chosen.policy
  signals = swept(results)
  any_searched = False
  any_charged = False

  for number, signal in enumerate(signals):
    look = drawing.series(number)

    searched = searched_curve(results, signal, policy)
    if searched:
      any_searched = True
      ax.plot(
        *zip(*searched),
        lw=2.2,
        ms=5,
        zorder=4,
        **look,
      )

    scalar = scalar_curve(results, signal, policy)
    alpha = 0.55 if searched else 1.0
    ax.plot(
      *zip(*scalar),
      lw=1.3,
      ms=3.6,
      alpha=alpha,
      zorder=3,
      **look,
    )

    charged_rows = _rows(results, signal, RECOMPUTE.name, False)
    if policy != RECOMPUTE.name and charged_rows:
      any_charged = True
      charged = scalar_curve(results, signal, RECOMPUTE.name)
      colour = look['color']
      ax.plot(
        *zip(*charged),
        color=colour,
        alpha=0.5,
        zorder=2,
        **CHARGED,
      )

  return _keys(signals, any_searched, any_charged)


def _keys(
  signals: Sequence[str], searched: bool, charged: bool
) -> list[Line2D]:
  """The legend of the signals' colours and of the kinds of lines drawn."""
  lines = []
  for number, signal in enumerate(signals):
    lines.append(drawing.key(signal, lw=2, ms=4.5, **drawing.series(number)))

  ink: Style = dict(color=svg.INK)
  if searched:
    lines.append(drawing.key('threshold per readout', lw=2.2, **ink))
    lines.append(drawing.key('one threshold', lw=1.3, alpha=0.55, **ink))
  if charged:
    label = f'{RECOMPUTE.name} (deep K/V charged)'
    lines.append(drawing.key(label, alpha=0.6, **CHARGED, **ink))
  return lines


def _plot_static(ax: Axes, results: Results, top: float) -> Line2D:
  """Always answering at one readout, as a model that is cut off there."""
  style: Style = dict(
    color=svg.INK,
    marker='s',
    ms=5,
    mfc=svg.PAPER,
    mew=1,
    lw=0.8,
    ls=':',
  )
  points = [(row.compute_static, row.report.ppl) for row in results.readouts]
  ax.plot(*zip(*points), zorder=5, **style)

  for row, point in zip(results.readouts, points):
    if row.report.ppl < top:
      name = drawing.cell_name(row, results.model.segments)
      ax.annotate(name, point, (6, 7), annotation_clip=True, **drawing.NOTE)

  return drawing.key('static exit', **style)


def _plot_clairvoyant(ax: Axes, curve: Curve) -> Line2D:
  """What could be reached if all losses were known."""
  style: Style = dict(color=svg.INK, lw=1.2, ls='-.', alpha=0.8)
  ax.plot(*zip(*curve), zorder=2, **style)
  return drawing.key('clairvoyant frontier', **style)


def _draw_full_depth(ax: Axes, ppl: float) -> None:
  """A line at the perplexity with exits off."""
  ax.axhline(
    ppl,
    color=svg.INK,
    lw=0.9,
    alpha=0.55,
    zorder=1,
  )
  ax.annotate(
    'full depth',
    (0, ppl),
    (3, 3),
    xycoords=('axes fraction', 'data'),
    **drawing.NOTE,
  )
