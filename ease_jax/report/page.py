"""The page: reads what a run left behind and shows it."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jinja2
import markupsafe

from ease_jax.report import figures, speed, svg, tables

# File of a run -> the mode of `ease_jax.main` that writes it.
INPUTS = {
  'config.json': 'train',
  'metrics.jsonl': 'train',
  'results.json': 'evaluate',
  'passage.json': 'evaluate',
}
NARROW_SPACE = '\u202f'

# Control characters would be invisible, or invalid in HTML.
_VISIBLE = {c: 0x2400 + c for c in range(32) if chr(c) not in '\t\n'}
_VISIBLE[0x7F] = 0x2421
_NAMED = str.maketrans({' ': '\u2423', '\n': '\u21b5', '\t': '\u21e5'})


def write_report(workdir: str | pathlib.Path) -> pathlib.Path:
  """Writes tables, figures and `report.html` into a run's directory.

  Args:
    workdir: a directory that training and evaluation have filled.

  Returns:
    the path of `report.html`.

  Raises:
    FileNotFoundError: a file of the run is missing; names the mode that
      makes it.
    ValueError: a file of the run is not JSON.
  """
  workdir = pathlib.Path(workdir)
  config, metrics, results, passage = (
    _load(workdir / name, mode) for name, mode in INPUTS.items()
  )
  drawings = _draw(results, metrics)
  write_figures(workdir, drawings)
  write(workdir / 'sweep.csv', tables.to_csv(results['sweep']))
  write(workdir / 'sweep.md', tables.to_markdown(results['sweep']))
  page = workdir / 'report.html'
  write(page, render(config, results, passage, drawings))
  return page


def render(config: Any, results: Any, passage: Any, drawings: Any) -> str:
  """The page as one string that needs nothing else.

  Args:
    config: the run's config.
    results: its results.
    passage: its tokens to show.
    drawings: name -> wide and narrow SVG file text.
  """
  num = len(results['readouts'])
  segments = max(r['segment'] for r in results['readouts'])
  return fill(
    'run.html',
    title=headline(results)['title'],
    results=results,
    headline=headline(results),
    exits=not figures.is_never(results['chosen']['threshold']),
    full_ppl=figures.full_ppl(results),
    splits=figures.splits(results),
    thresholds=_threshold_list(results, segments),
    oracle=_oracle(results),
    speed=speed.section(results, segments),
    readouts=tables.readout_rows(results),
    names=[figures.cell_name(r, segments) for r in results['readouts']],
    shades=[f'{100 * svg.shade(k, num):.1f}%' for k in range(num)],
    figures=inline(drawings),
    passage=passage,
    tokens=[
      _token(t, results['readouts'], segments) for t in passage['tokens']
    ],
    config_text=json.dumps(config, indent=2, ensure_ascii=False),
  )


def fill(template: str, **values: Any) -> str:
  """A page of `base.html`'s look from a template of this package."""
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('ease_jax', 'report'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {
    'percent': percent,
    'number': number,
    'ppl': perplexity,
    'rate': rate,
  }
  return environment.get_template(template).render(
    light=markupsafe.Markup(svg.css_variables(False)),
    dark=markupsafe.Markup(svg.css_variables(True)),
    **values,
  )


def headline(results: dict[str, Any]) -> dict[str, Any]:
  """What the run shows in one line; "no saving" is an allowed result."""
  chosen = results['chosen']
  test, (select, report) = chosen['test'], figures.splits(results)
  saved = 1 - test['compute']
  if figures.is_never(chosen['threshold']):
    return {
      'saves': False,
      'title': 'No saving',
      'lead': 'No setting of the exits kept the asked-for quality for less '
      f'than full compute on the {select} split: every token goes '
      'through all layers.',
    }
  # A saving that the display would round to nothing is none.
  if saved < 0.0005:
    return {
      'saves': False,
      'title': 'No saving',
      'lead': f'The setting chosen on the {select} split costs '
      f'{percent(test["compute"])} of full compute on the {report} '
      'split.',
    }
  return {
    'saves': True,
    'title': f'{percent(saved)} less compute, {_quality(test)}',
    'lead': 'Every token stops at the first of '
    f'{len(results["readouts"])} readouts that is sure enough. The '
    f'thresholds were chosen on the {select} split; the numbers '
    f'here are from the {report} split.',
  }


def _quality(test: dict[str, Any]) -> str:
  change = test['ppl_vs_full'] - 1
  if abs(change) < 0.0005:
    return 'the same perplexity'
  return (
    f'{percent(abs(change))} {"higher" if change > 0 else "lower"} perplexity'
  )


def percent(value: float) -> str:
  """0.347 -> 34.7 %, kept on one line."""
  return f'{100 * value:.1f}{NARROW_SPACE}%'


def number(value: float) -> str:
  """Large counts in groups of three, others with four digits."""
  if float(value).is_integer() and abs(value) < 1e12:
    return f'{int(value):,}'.replace(',', NARROW_SPACE)
  return f'{value:.4g}'


def perplexity(value: float) -> str:
  """Enough digits to see one part in a thousand."""
  return f'{value:.3f}' if value < 100 else f'{value:.1f}'


def rate(value: float) -> str:
  """Tokens per second: whole ones, or three digits of a few."""
  return number(round(value)) if value >= 100 else f'{value:.3g}'


def _load(path: pathlib.Path, mode: str) -> Any:
  if not path.is_file():
    raise FileNotFoundError(f'{path} is missing; make it with --mode={mode}')
  text = path.read_text(encoding='utf-8')
  try:
    if path.suffix == '.jsonl':
      return [json.loads(line) for line in text.splitlines() if line.strip()]
    return json.loads(text)
  except json.JSONDecodeError as error:
    raise ValueError(
      f'{path} is not JSON ({error}); make it again with --mode={mode}'
    ) from None


def write(path: pathlib.Path, text: str) -> None:
  """Writes UTF-8, whatever the text is made of."""
  # A token can be half a character; a page must still be valid UTF-8.
  path.write_bytes(text.encode('utf-8', errors='replace'))


def _draw(results: Any, metrics: Any) -> dict[str, tuple[str, str]]:
  """Name -> the drawing for screens and the drawing for phones."""
  todo = {'quality_vs_compute': results, 'training_curves': metrics}
  if figures.chosen_fractions(results):
    todo['exit_histogram'] = results
  if results.get('calibration'):
    todo['reliability'] = results
  if results.get('segments'):
    todo['segments'] = results

  drawings = {
    name: draw(getattr(figures, name), data) for name, data in todo.items()
  }
  if results.get('speed'):
    drawings['speed'] = draw(speed.measured, results['speed'])
  return drawings


def draw(figure: Callable[..., Any], data: Any) -> tuple[str, str]:
  """A figure for screens and for phones."""
  wide, narrow = (
    svg.to_svg(figure(data, width)) for width in (figures.WIDE, figures.NARROW)
  )
  return wide, narrow


def write_figures(workdir: pathlib.Path, drawings: Any) -> None:
  """The drawings for screens, as files of their own."""
  (workdir / 'figures').mkdir(exist_ok=True)
  for name, (wide, _) in drawings.items():
    write(workdir / 'figures' / f'{name}.svg', wide)


def inline(drawings: Any) -> dict[str, markupsafe.Markup]:
  result = {}
  for name, (wide, narrow) in drawings.items():
    title = name.replace('_', ' ')
    result[name] = markupsafe.Markup(
      svg.to_inline(wide, 'wide', f'{name}-wide', title)
      + svg.to_inline(narrow, 'narrow', f'{name}-narrow', title)
    )
  return result


def _threshold_list(results: Any, segments: int) -> list[tuple[str, str]]:
  """(readout, its threshold) of the chosen point, the last one left out."""
  threshold, early = results['chosen']['threshold'], results['readouts'][:-1]
  if not isinstance(threshold, list):
    threshold = [threshold] * len(early)
  return [
    (figures.cell_name(r, segments), 'never' if t is None else f'{t:.3g}')
    for r, t in zip(early, threshold)
  ]


def _oracle(results: Any) -> Any:
  _, report = figures.splits(results)
  rows = [r for r in results.get('oracle', []) if r['split'] == report]
  return rows[0] if rows else None


def _token(token: Any, readouts: Any, segments: int) -> dict[str, Any]:
  """Text, exit and the line shown when the token is pointed at."""
  text = token['text'].translate(_VISIBLE)
  place = figures.cell_name(readouts[token['exit']], segments)
  return {
    'text': text,
    'exit': token['exit'],
    'newline': text == '\n',
    'tip': f'{text.translate(_NAMED)}   exit after {place} · probability '
    f'{percent(token["prob"])} · loss {token["nll"]:.2f}',
  }
