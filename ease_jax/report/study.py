"""Table, figures and page of a comparison, from its `comparison.json`."""

import csv
import io
import pathlib
from typing import Any

from matplotlib import ticker
from matplotlib.figure import Figure

from ease_jax.report import figures, page, svg, tables

COLUMNS = (
  'variant',
  'seeds',
  'test ppl',
  'select ppl',
  'parameters',
  'updates',
  'tokens',
  'train FLOPs',
  'FLOPs/token',
  'chosen ppl',
  'chosen compute',
)
PAIR_COLUMNS = (
  'variant',
  'against',
  'seeds',
  'change',
  'p',
  'p, Holm',
  'equal',
  'updates',
  'train FLOPs',
  'FLOPs/token',
)


def write_page(workdir: pathlib.Path, summary: dict[str, Any]) -> pathlib.Path:
  """Writes comparison.csv, comparison.md, figures/*.svg and report.html.

  Returns:
    the path of `report.html`.
  """
  rows = [_row(v) for v in summary['variants']]
  pairs = [_pair_row(p) for p in summary['pairs']]
  todo = {'perplexities': perplexities}
  if summary['frontier']:
    todo['frontier'] = frontier
  drawings = {name: page.draw(figure, summary) for name, figure in todo.items()}
  page.write_figures(workdir, drawings)
  page.write(
    workdir / 'comparison.md',
    _markdown(COLUMNS, rows) + '\n' + _markdown(PAIR_COLUMNS, pairs),
  )
  page.write(workdir / 'comparison.csv', _csv(summary))
  path = workdir / 'report.html'
  page.write(
    path,
    page.fill(
      'comparison.html',
      columns=COLUMNS,
      rows=rows,
      pair_rows=pairs,
      pair_columns=PAIR_COLUMNS,
      figures=page.inline(drawings),
      **summary,
    ),
  )
  return path


def spread(value: dict[str, Any], digits: int = 3, scale: float = 1) -> str:
  """Mean ± standard deviation; one value has none."""
  text = f'{scale * value["mean"]:.{digits}f}'
  if value['sd'] is None:
    return text
  return f'{text} ± {scale * value["sd"]:.{digits}f}'


def _row(v: dict[str, Any]) -> list[str]:
  return [
    v['name'],
    str(len(v['runs'])),
    spread(v['test_ppl']),
    spread(v['select_ppl']),
    page.number(round(v['params'])),
    page.number(round(v['updates'])),
    f'{v["tokens"]:.3g}',
    f'{v["flops"]:.3g}',
    f'{v["inference_flops"]:.3g}',
    spread(v['chosen_ppl']),
    spread(v['chosen_compute'], 1, 100) + ' %',
  ]


def _pair_row(p: dict[str, Any]) -> list[str]:
  ratio = lambda key: f'× {p["ratios"][key]:.2f}'
  small = lambda value: '–' if value is None else f'{value:.2g}'
  change = p['change']
  sd = '' if change['sd'] is None else f' ± {100 * change["sd"]:.2f}'
  return [
    p['variant'],
    p['baseline'],
    str(len(p['seeds'])),
    f'{100 * change["mean"]:+.2f}{sd} %',
    small(p['p']),
    small(p['p_holm']),
    ', '.join(p['equal']) or 'nothing',
    ratio('updates'),
    ratio('flops'),
    ratio('inference_flops'),
  ]


def _markdown(columns: Any, rows: list[list[str]]) -> str:
  rule = ['---'] + ['---:'] * (len(columns) - 1)
  return tables.markdown(columns, rule, rows)


def _csv(summary: dict[str, Any]) -> str:
  """One row per run, full precision."""
  buffer = io.StringIO()
  writer = csv.writer(buffer, lineterminator='\n')
  columns = list(summary['variants'][0]['runs'][0])
  writer.writerow(['variant', *columns])
  for v in summary['variants']:
    writer.writerows([v['name'], *row.values()] for row in v['runs'])
  return buffer.getvalue()


@svg.themed
def perplexities(summary: dict[str, Any], width: float) -> Figure:
  """A dot for every run, a bar at the mean, one line per variant."""
  variants = summary['variants']
  figure = Figure(figsize=(width, 0.75 + 0.36 * len(variants)))
  ax = figure.subplots()
  for y, v in enumerate(variants):
    values = v['test_ppl']['values']
    ax.plot(
      values,
      [y] * len(values),
      ls='',
      marker='o',
      ms=5.5,
      mfc=(svg.SERIES[0], 0.35),
      mec=svg.SERIES[0],
    )
    ax.plot(
      [v['test_ppl']['mean']],
      [y],
      ls='',
      marker='|',
      ms=17,
      mew=2.2,
      color=svg.DEPTH,
    )
  ax.set_yticks(range(len(variants)), [v['name'] for v in variants])
  ax.set_ylim(len(variants) - 0.4, -0.6)
  ax.spines['left'].set_visible(False)
  ax.set_title('test perplexity; each dot is a seed')
  ax.xaxis.set_major_locator(ticker.MaxNLocator(6))
  return figure


@svg.themed
def frontier(summary: dict[str, Any], width: float) -> Figure:
  """Perplexity against inference FLOPs per token, both on log axes."""
  data = summary['frontier']
  figure = Figure(figsize=(width, 4.9))
  ax = figure.subplots()
  for number, (name, curve) in enumerate(data['curves'].items()):
    ax.plot(
      [p['flops'] for p in curve],
      [p['ppl'] for p in curve],
      lw=1.8,
      marker=figures.MARKERS[number % len(figures.MARKERS)],
      ms=4.5,
      color=svg.SERIES[number % len(svg.SERIES)],
      mec=svg.PAPER,
      mew=0.5,
      label=name,
    )
  points = data['points']
  ax.plot(
    [p['flops'] for p in points],
    [p['ppl'] for p in points],
    lw=1.4,
    marker='s',
    ms=6,
    mfc=svg.PAPER,
    color=svg.INK,
    zorder=5,
    label='models without exits',
  )
  worst = max(p['ppl'] for p in points)
  best = min(
    [p['ppl'] for p in points]
    + [p['ppl'] for c in data['curves'].values() for p in c]
  )
  ax.set_xscale('log')
  ax.set_yscale('log')
  ax.set_ylim(best * 0.985, worst * 1.06)
  plain = ticker.FuncFormatter(lambda v, _: f'{v:.3g}')
  for axis in (ax.yaxis, ax.xaxis):
    axis.set_major_formatter(plain)
    axis.set_minor_formatter(ticker.NullFormatter())
  ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 1.2, 1.5, 2, 3, 5, 7)))
  ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5)))
  ax.set_xlabel('inference FLOPs per token, everything counted')
  ax.set_title('test perplexity')
  figure.legend(
    loc='outside lower left', ncols=3 if width > 5 else 1, fontsize=8.2
  )
  return figure
