"""Table, figures and page of a study, from its comparison."""

import csv
import io
import pathlib
from collections.abc import Sequence

from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ease_jax.report import (
  drawing,
  html,
  recurrence,
  signals,
  svg,
  tables,
  words,
)
from ease_jax.report.comparison import (
  Comparison,
  Frontier,
  Judged,
  Pair,
  Variant,
)

COLUMNS = (
  'variant',
  'seeds',
  'test ppl',
  '95 % interval',
  'select ppl',
  'parameters',
  'updates',
  'tokens',
  'train FLOPs',
  'FLOPs/token, full pass',
  'chosen ppl',
  'FLOPs/token, chosen',
  'of its full pass',
)
PAIR_COLUMNS = (
  'variant',
  'against',
  'seeds',
  'change of test ppl [95 %]',
  'which is',
  'equal',
  'updates',
  'train FLOPs',
  'FLOPs/token',
)


def write_page(workdir: pathlib.Path, comparison: Comparison) -> pathlib.Path:
  """Writes comparison.csv, comparison.md, figures/*.svg and report.html.

  Returns:
    the path of `report.html`.
  """
  rows = [_cells(variant) for variant in comparison.variants]
  pair_rows = [_pair_cells(pair) for pair in comparison.pairs]

  judged = comparison.frontier.judged if comparison.frontier else ()

  drawings = {'perplexities': html.draw(perplexities, comparison)}
  if comparison.frontier:
    drawings['frontier'] = html.draw(frontier, comparison.frontier)
  html.write_figures(workdir, drawings)

  readout_columns, readout_rows = _readouts(comparison)

  written = [_markdown(COLUMNS, rows)]
  if pair_rows:
    written.append(_markdown(PAIR_COLUMNS, pair_rows))
  if readout_rows:
    written.append(_markdown(readout_columns, readout_rows))
  recovered = recurrence.recovered(comparison)
  if recovered:
    written.append(_markdown(recurrence.RECOVERED, recovered))
  depths = recurrence.depths(comparison)
  if depths:
    written.append(_markdown(recurrence.DEPTHS, depths))
  signal_columns, signal_rows = signals.costs_table(comparison)
  if signal_rows:
    written.append(_markdown(signal_columns, signal_rows))
  html.write(workdir / 'comparison.md', '\n'.join(written))
  html.write(workdir / 'comparison.csv', _csv(comparison))

  page = html.fill(
    'comparison.html',
    title=comparison.title,
    comparison=comparison,
    columns=COLUMNS,
    rows=rows,
    pair_columns=PAIR_COLUMNS,
    pair_rows=pair_rows,
    readout_columns=readout_columns,
    readout_rows=readout_rows,
    recovered_columns=recurrence.RECOVERED,
    recovered_rows=recovered,
    depth_columns=recurrence.DEPTHS,
    depth_rows=depths,
    signal_columns=signal_columns,
    signal_rows=signal_rows,
    verdict=verdict(comparison),
    sentences=[sentence(pair) for pair in comparison.pairs],
    judged=[judgement(item) for item in judged],
    figures=html.inline(drawings),
  )
  path = workdir / 'report.html'
  html.write(path, page)
  return path


def verdict(comparison: Comparison) -> str:
  """The study in one line: how many differences are told apart."""
  directions = [words.direction(p.ratio, p.interval) for p in comparison.pairs]
  lower = directions.count('lower')
  higher = directions.count('higher')
  rest = len(directions) - lower - higher
  return (
    f'Pairs of variants: {len(directions)}. The first has a lower perplexity '
    f'than the second in {lower}, a higher one in {higher}, and they are '
    f'{words.NOT_TOLD_APART} in {rest}.'
  )


def sentence(pair: Pair) -> str:
  """What a pair says, and how certain that is."""
  return (
    f'{pair.variant} against {pair.baseline}, both at full depth: '
    f'{words.direction(pair.ratio, pair.interval)}, '
    f'{words.change(pair.ratio, pair.interval)} perplexity '
    f'({words.seeds(len(pair.seeds))})'
  )


def judgement(item: Judged) -> str:
  """Where the exits of a variant lie beside models without exits."""
  if not item.stretches:
    return f'{item.variant}: no budget of it is one of the black line.'

  parts = []
  if item.chosen is not None:
    parts.append(
      f'at its chosen point, {item.chosen.low:.3g} FLOPs per token, '
      'beside a model of that compute '
      f'{words.direction(item.chosen.ratio, item.chosen.interval)}, '
      f'{words.change(item.chosen.ratio, item.chosen.interval)}'
    )
  for stretch in item.stretches:
    low = f'{stretch.low:.3g}'
    high = f'{stretch.high:.3g}'
    where = f'at {high}' if low == high else f'from {low} to {high}'
    side = words.direction(stretch.ratio, stretch.interval)
    most = words.change(stretch.ratio, stretch.interval)
    parts.append(f'{where} FLOPs per token {side}, at most {most}')
  return f'{item.variant}: {"; ".join(parts)} ({words.seeds(item.seeds)}).'


def _cells(variant: Variant) -> list[str]:
  """A row under COLUMNS."""
  sizes = variant.sizes
  interval = variant.report_ppl_interval
  return [
    variant.name,
    str(len(variant.runs)),
    tables.spread(variant.report_ppl),
    f'{interval.low:.3f} to {interval.high:.3f}',
    tables.spread(variant.select_ppl),
    html.number(round(sizes.params)),
    html.number(round(sizes.updates)),
    f'{sizes.tokens:.3g}',
    f'{sizes.flops:.3g}',
    f'{sizes.inference_flops:.3g}',
    tables.spread(variant.chosen_ppl),
    f'{variant.chosen_flops.mean:.3g}',
    tables.spread(variant.chosen_compute, 1, 100) + ' %',
  ]


def _pair_cells(pair: Pair) -> list[str]:
  """A row under PAIR_COLUMNS."""
  return [
    pair.variant,
    pair.baseline,
    str(len(pair.seeds)),
    words.change(pair.ratio, pair.interval),
    words.direction(pair.ratio, pair.interval),
    ', '.join(pair.equal) or 'nothing',
    f'× {pair.ratios.updates:.2f}',
    f'× {pair.ratios.flops:.2f}',
    f'× {pair.ratios.inference_flops:.2f}',
  ]


def _readouts(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
  """Columns and rows of every readout's perplexity; no rows if all have one.

  A row for each variant, and one for each pair whose readouts can be compared.
  """
  rows = [
    [variant.name, *map(tables.spread, variant.readouts)]
    for variant in comparison.variants
  ]
  for pair in comparison.pairs:
    changes = [words.change(c.ratio, c.interval) for c in pair.readouts]
    if changes:
      rows.append([f'{pair.variant} against {pair.baseline}', *changes])

  columns = max(map(len, rows))
  if columns <= 2:
    return [], []
  names = [f'readout {k}' for k in range(1, columns)]
  filled = [row + [''] * (columns - len(row)) for row in rows]
  return ['variant', *names], filled


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  rule = ['---'] + ['---:'] * (len(columns) - 1)
  return tables.markdown(columns, rule, rows)


def _csv(comparison: Comparison) -> str:
  """One row per run, full precision."""
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator='\n')
  columns = list(comparison.variants[0].runs[0].to_json())

  writer.writerow(['variant', *columns])
  for variant in comparison.variants:
    for run in variant.runs:
      writer.writerow([variant.name, *run.to_json().values()])
  return buffer.getvalue()


@svg.themed
def perplexities(comparison: Comparison, width: float) -> Figure:
  """A dot for every run, a bar at the mean, one line per variant."""
  variants = comparison.variants
  figure = Figure(figsize=(width, 0.75 + 0.36 * len(variants)))
  ax = figure.subplots()

  dot: drawing.Style = dict(
    ls='',
    marker='o',
    ms=5.5,
    mfc=(svg.SERIES[0], 0.35),
    mec=svg.SERIES[0],
  )
  bar: drawing.Style = dict(
    ls='',
    marker='|',
    ms=17,
    mew=2.2,
    color=svg.DEPTH,
  )
  for y, variant in enumerate(variants):
    values = variant.report_ppl.values
    ax.plot(values, [y] * len(values), **dot)
    ax.plot([variant.report_ppl.mean], [y], **bar)

  ax.set_yticks(range(len(variants)), [variant.name for variant in variants])
  ax.set_ylim(len(variants) - 0.4, -0.6)
  ax.spines['left'].set_visible(False)
  ax.set_title('test perplexity; each dot is a seed')
  ax.xaxis.set_major_locator(ticker.MaxNLocator(6))
  return figure


@svg.themed
def frontier(data: Frontier, width: float) -> Figure:
  """Perplexity against inference FLOPs per token, both on log axes."""
  figure = Figure(figsize=(width, 4.9))
  ax = figure.subplots()

  for number, curve in enumerate(data.curves):
    flops = [point.flops for point in curve.points]
    ppls = [point.ppl for point in curve.points]
    style: drawing.Style = drawing.series(number) | dict(mew=0.5)
    ax.plot(
      flops,
      ppls,
      lw=1.8,
      ms=4.5,
      label=drawing.label(curve.variant),
      **style,
    )

  ax.plot(
    [point.flops for point in data.points],
    [point.ppl for point in data.points],
    lw=1.4,
    marker='s',
    ms=6,
    mfc=svg.PAPER,
    color=svg.INK,
    zorder=5,
    label='models without exits',
  )

  _set_log_axes(ax, data)
  ax.set_xlabel('inference FLOPs per token, everything counted')
  ax.set_title('test perplexity')
  columns = 3 if width > drawing.BROAD else 1
  figure.legend(ncols=columns, **drawing.LEGEND)
  return figure


def _set_log_axes(ax: Axes, data: Frontier) -> None:
  """Log axes with plain numbers, cut above the worst model without exits."""
  worst = max(point.ppl for point in data.points)
  best = min(point.ppl for point in data.points)
  for curve in data.curves:
    best = min(best, *(point.ppl for point in curve.points))

  ax.set_xscale('log')
  ax.set_yscale('log')
  ax.set_ylim(best * 0.985, worst * 1.06)
  for axis in (ax.yaxis, ax.xaxis):
    axis.set_major_formatter(ticker.FuncFormatter(_plain))
    axis.set_minor_formatter(ticker.NullFormatter())
  ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.2, 1.5, 2, 3, 5, 7)))
  ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5)))


def _plain(value: float, position: int | None) -> str:
  del position
  return f'{value:.3g}'
