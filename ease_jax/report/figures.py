"""The figures: pure functions from a run's data to a matplotlib figure.

Each takes a width in inches, because the page shows a wide drawing on a
screen and a narrow one on a phone, with letters of the same size.
"""

import math
from typing import Any

import numpy as np
from matplotlib import ticker, transforms
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ease_jax.report import svg

Style = dict[str, Any]  # keyword arguments of a drawing

WIDE, NARROW = 7.4, 4.1
MARKERS = 'osD^vP'
# Perplexity is shown up to so many times that of full depth: what lies above
# is no operating point, and would flatten the part that matters.
PPL_VIEW = 1.15

# A line that says where points would be, drawn behind them.
GUIDE: Style = dict(color=svg.INK, ls=(0, (4, 3)), alpha=0.6)

PERCENT = ticker.FuncFormatter(lambda x, _: f'{100 * x:.0f}\u202f%')


def cell_name(cell: dict[str, Any], segments: int) -> str:
  """What a reader calls a readout."""
  layer = f'layer {cell["layer"]}'
  return f'segment {cell["segment"]}, {layer}' if segments > 1 else layer


def _segments(results: dict[str, Any]) -> int:
  return max(r['segment'] for r in results['readouts'])


def splits(results: dict[str, Any]) -> tuple[str, str]:
  """Names of the split that chose and of the split that reports."""
  chosen = results['chosen']
  return (
    chosen.get('select_split', 'select'),
    chosen.get('report_split', 'test'),
  )


def is_never(threshold: Any) -> bool:
  """No readout before the last may answer: exits off."""
  if isinstance(threshold, list):
    return all(t is None for t in threshold)
  return threshold is None


def full_ppl(results: dict[str, Any]) -> float:
  """Perplexity of the report split with exits off."""
  policy, (_, split) = results['chosen']['kv_policy'], splits(results)
  for row in results['sweep']:
    if (
      row['split'] == split
      and row['kv_policy'] == policy
      and is_never(row['threshold'])
    ):
      return row['ppl']
  return results['readouts'][-1]['test']['ppl']


def _signals(results: dict[str, Any]) -> list[str]:
  return list(dict.fromkeys(r['signal'] for r in results['sweep']))


def _curve(results, signal, policy, searched) -> list[tuple[float, float]]:
  """(compute, ppl) on the report split; scalar curves end at exits off."""
  _, split = splits(results)
  rows = [
    r
    for r in results['sweep']
    if r['split'] == split
    and r['kv_policy'] == policy
    and (r['threshold'] is None or r['signal'] == signal)
    and isinstance(r['threshold'], list) == searched
  ]
  if searched:
    return sorted({(r['compute'], r['ppl']) for r in rows})
  order = lambda t: math.inf if t is None else t
  rows.sort(key=lambda r: order(r['threshold']))
  return [(r['compute'], r['ppl']) for r in rows]


def _plot_signals(ax: Axes, results: dict[str, Any]) -> list[Line2D]:
  """One colour per signal; returns the legend's explanation of the lines."""
  policy = results['chosen']['kv_policy']
  scalar_style: Style = dict(lw=1.3, ms=3.6)
  seen = set()
  for number, signal in enumerate(_signals(results)):
    colour = svg.SERIES[number % len(svg.SERIES)]
    marker = MARKERS[number % len(MARKERS)]
    look: Style = dict(color=colour, marker=marker, mew=0.6, mec=svg.PAPER)
    searched = _curve(results, signal, policy, True)
    if searched:
      seen.add('searched')
      ax.plot(*zip(*searched), lw=2.2, ms=5, zorder=4, **look)
    scalar = _curve(results, signal, policy, False)
    if scalar:
      alpha = 0.55 if searched else 1.0
      ax.plot(*zip(*scalar), alpha=alpha, zorder=3, **scalar_style, **look)
    if policy != 'recompute':
      charged = _curve(results, signal, 'recompute', False)
      if len(charged) > 1:
        seen.add('recompute')
        ax.plot(
          *zip(*charged),
          color=colour,
          lw=1,
          ls=(0, (3, 2.5)),
          alpha=0.5,
          zorder=2,
        )
  lines = [
    Line2D(
      [],
      [],
      color=svg.SERIES[i % len(svg.SERIES)],
      lw=2,
      marker=MARKERS[i % len(MARKERS)],
      ms=4.5,
      mec=svg.PAPER,
      mew=0.6,
      label=signal,
    )
    for i, signal in enumerate(_signals(results))
  ]
  ink: Style = dict(color=svg.INK)
  if 'searched' in seen:
    lines.append(Line2D([], [], lw=2.2, label='threshold per readout', **ink))
    lines.append(
      Line2D([], [], lw=1.3, alpha=0.55, label='one threshold', **ink)
    )
  if 'recompute' in seen:
    lines.append(
      Line2D(
        [],
        [],
        lw=1,
        ls=(0, (3, 2.5)),
        alpha=0.6,
        label='recompute (deep K/V charged)',
        **ink,
      )
    )
  return lines


def _plot_static(ax: Axes, results: dict[str, Any], top: float) -> Line2D:
  """Always answering at one readout, as a model of that depth would."""
  points = [(r['cost'], r['test']['ppl']) for r in results['readouts']]
  style: Style = dict(
    color=svg.INK, marker='s', ms=5, mfc=svg.PAPER, mew=1, lw=0.8, ls=':'
  )
  ax.plot(*zip(*points), zorder=5, **style)
  for readout, point in zip(results['readouts'], points):
    if point[1] < top:
      ax.annotate(
        cell_name(readout, _segments(results)),
        point,
        (6, 7),
        textcoords='offset points',
        fontsize=8,
        alpha=0.75,
        annotation_clip=True,
      )
  return Line2D([], [], label='static exit (true depth)', **style)


def _plot_oracle(ax: Axes, results: dict[str, Any], bottom: float) -> None:
  """The bound; when it is far below, an arrow at the edge says where."""
  _, split = splits(results)
  for row in results.get('oracle', []):
    if row['split'] != split:
      continue
    below = row['ppl'] < bottom
    marker, lift = ('v', 6) if below else ('*', 0)
    x, y = row['compute'], max(row['ppl'], bottom)
    shift = transforms.ScaledTranslation(
      0, lift / 72, ax.figure.dpi_scale_trans
    )
    ax.plot(
      [x],
      [y],
      marker=marker,
      ms=8,
      color=svg.INK,
      zorder=6,
      transform=ax.transData + shift,
    )
    ax.annotate(
      f'oracle {row["ppl"]:.2f}',
      (x, y),
      (8, lift),
      va='center_baseline',
      textcoords='offset points',
      fontsize=8,
    )


def mark_chosen(ax: Axes, x: float, y: float) -> Line2D:
  """A ring around the chosen point; returns its line of the legend."""
  style: Style = dict(
    marker='o', ms=13, mfc='none', mec=svg.DEPTH, mew=2.2, ls=''
  )
  ax.plot([x], [y], zorder=7, **style)
  return Line2D([], [], label='chosen point', **{**style, 'ms': 9})


@svg.themed
def quality_vs_compute(results: dict[str, Any], width: float = WIDE) -> Figure:
  """Perplexity against compute, on the split that reports."""
  full = full_ppl(results)
  wide = width > 5
  figure = Figure(figsize=(width, 4.9 if wide else 5.3))
  ax = figure.subplots()
  handles = _plot_signals(ax, results)
  inside = [
    (x, y)
    for line in ax.lines
    for x, y in np.asarray(line.get_xydata())
    if y <= PPL_VIEW * full
  ]
  test = results['chosen']['test']
  inside += [(test['compute'], test['ppl'])]
  top = max([full * 1.02] + [y for _, y in inside])
  bottom = min([full] + [y for _, y in inside]) - 0.13 * (top - full)
  top += 0.03 * (top - full)
  handles.append(_plot_static(ax, results, top))
  _plot_oracle(ax, results, bottom)
  if not is_never(results['chosen']['threshold']):
    handles.append(mark_chosen(ax, test['compute'], test['ppl']))
  _, split = splits(results)
  x_values = [1.0] + [x for x, _ in inside]
  x_values += [
    r['compute'] for r in results.get('oracle', []) if r['split'] == split
  ]
  ax.set_xlim(min(x_values) - 0.04, max(x_values) + 0.06)
  ax.set_ylim(bottom, top)
  ax.axhline(full, color=svg.INK, lw=0.9, alpha=0.55, zorder=1)
  ax.annotate(
    'full depth',
    (0, full),
    (3, 3),
    xycoords=('axes fraction', 'data'),
    textcoords='offset points',
    fontsize=8,
    alpha=0.75,
  )
  ax.xaxis.set_major_formatter(PERCENT)
  ax.set_xlabel('compute per token, relative to full depth')
  ax.set_title(f'perplexity ({split})')
  figure.legend(
    handles=handles,
    loc='outside lower left',
    ncols=3 if wide else 2,
    fontsize=8.2,
  )
  return figure


def chosen_fractions(results: dict[str, Any]) -> list[float] | None:
  """Share of the report split's tokens that each readout answers."""
  chosen, (_, split) = results['chosen'], splits(results)
  if 'exit_fraction' in chosen['test']:
    return chosen['test']['exit_fraction']
  keys = ('signal', 'kv_policy', 'threshold')
  for row in results['sweep']:
    if row['split'] == split and all(row[k] == chosen[k] for k in keys):
      return row['exit_fraction']
  return None


@svg.themed
def exit_histogram(results: dict[str, Any], width: float = WIDE) -> Figure:
  """Where tokens stop at the chosen point."""
  fractions = chosen_fractions(results) or []
  readouts = results['readouts'][: len(fractions)]
  num = len(readouts)
  figure = Figure(figsize=(width, 0.55 + 0.33 * max(num, 1)))
  ax = figure.subplots()
  ax.grid(False)
  for k, fraction in enumerate(fractions):
    ax.barh(
      k,
      fraction,
      height=0.74,
      fc=(svg.DEPTH, svg.shade(k, num)),
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
  names = [cell_name(r, _segments(results)) for r in readouts]
  ax.set_yticks(range(num), names)
  ax.set_xlim(0, 1.16 * max(fractions, default=1.0))
  ax.set_ylim(num - 0.4, -0.6)
  ax.set_xticks([])
  ax.spines[['bottom', 'left']].set_visible(False)
  ax.set_title('tokens answered by each readout')
  return figure


def _reliability_panel(ax: Axes, item: dict[str, Any], name: str) -> None:
  bins = [b for b in item['bins'] if b['count']]
  total = sum(b['count'] for b in bins) or 1
  ax.plot([0, 1], [0, 1], lw=0.8, **GUIDE)
  x, y = [b['confidence'] for b in bins], [b['accuracy'] for b in bins]
  ax.plot(x, y, color=svg.SERIES[0], lw=1.4, zorder=3)
  # The area of a dot is its share of the tokens.
  area = [8 + 260 * b['count'] / total for b in bins]
  ax.scatter(
    x, y, s=area, fc=(svg.SERIES[0], 0.35), ec=svg.SERIES[0], lw=0.9, zorder=4
  )
  ax.set_title(f'{name}   ECE {item["ece"]:.3f}', fontsize=8.8)
  ax.set(xlim=(-0.04, 1.06), ylim=(-0.04, 1.06), aspect='equal')


@svg.themed
def reliability(results: dict[str, Any], width: float = WIDE) -> Figure:
  """Is the probability of the prediction the chance that it is right?"""
  items = results.get('calibration', [])
  columns = max(1, min(len(items), 4 if width > 5 else 2))
  rows = max(1, math.ceil(len(items) / columns))
  side = width / columns
  figure = Figure(figsize=(width, rows * side * 1.12 + 0.2))
  axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
  for ax, item in zip(axes.flat, items):
    _reliability_panel(ax, item, cell_name(item, _segments(results)))
    ax.set_xticks([0, 0.5, 1])
    ax.set_yticks([0, 0.5, 1])
  for ax in axes.flat[len(items) :]:
    ax.remove()
  figure.supxlabel('confidence', fontsize=9.5)
  figure.supylabel('accuracy', fontsize=9.5)
  return figure


@svg.themed
def training_curves(
  metrics: list[dict[str, Any]], width: float = WIDE
) -> Figure:
  """Loss against steps, on every split that was measured."""
  figure = Figure(figsize=(width, 2.9))
  ax = figure.subplots()
  curves: dict[str, dict[int, float]] = {}
  for event in metrics:
    if 'loss' in event and 'split' in event:
      # A resumed run repeats steps; the later line stands.
      curves.setdefault(event['split'], {})[event['step']] = event['loss']
  names = sorted(curves, key=lambda name: (name != 'train', name))
  for number, name in enumerate(names):
    points = sorted(curves[name].items())
    dense = name == 'train'
    ax.plot(
      *zip(*points),
      label=name,
      color=svg.SERIES[number % 6],
      lw=1.2 if dense else 1.8,
      marker='' if dense else 'o',
      ms=4.5,
      mec=svg.PAPER,
      mew=0.6,
    )
  ax.set_xlabel('step')
  ax.set_title('loss (nats per token)')
  ax.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
  if names:
    ax.legend(loc='upper right')
  return figure


@svg.themed
def segments(results: dict[str, Any], width: float = WIDE) -> Figure:
  """Does refinement go on after the segments it was trained for?"""
  rows, trained = results['segments'], results['model']['segments']
  figure = Figure(figsize=(width, 2.9))
  ax = figure.subplots()
  x = [row['segments'] for row in rows]
  for number, name in enumerate(('select', 'test')):
    ax.plot(
      x,
      [row[name]['ppl'] for row in rows],
      color=svg.SERIES[number],
      marker=MARKERS[number],
      ms=5,
      lw=1.8,
      mec=svg.PAPER,
      mew=0.6,
      label=name,
    )
  ax.axvline(trained, lw=0.9, **GUIDE)
  ax.annotate(
    'trained',
    (trained, 1),
    (4, -4),
    xycoords=('data', 'axes fraction'),
    textcoords='offset points',
    fontsize=8,
    alpha=0.75,
    va='top',
  )
  ax.set_xlabel('segments run')
  ax.set_title('perplexity at full depth')
  ax.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
  ax.legend(loc='upper right')
  return figure
