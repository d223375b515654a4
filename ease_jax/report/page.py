"""The page: reads what a run left behind and shows it."""

import dataclasses
import json
import pathlib
from typing import Any

from ease_jax.core import policies
from ease_jax.evaluate import passage as passage_lib
from ease_jax.evaluate import results as results_lib
from ease_jax.evaluate.passage import Passage, PassageToken
from ease_jax.evaluate.records import read_json
from ease_jax.evaluate.results import (
  REPORT,
  ReadoutRow,
  Results,
)
from ease_jax.fields import flat
from ease_jax.report import (
  drawing,
  figures,
  headline,
  html,
  quality,
  routing,
  signals,
  speed,
  spending,
  svg,
  tables,
  words,
)
from ease_jax.report.html import Drawings
from ease_jax.train.spec import KEEPS_MODEL
from ease_jax.train.writers import METRICS, read_events

# Control characters would be invisible, or invalid in HTML.
_VISIBLE: dict[int, int | str] = {
  c: 0x2400 + c for c in range(32) if chr(c) not in '\t\n'
}
_VISIBLE[0x7F] = 0x2421
# These would turn the rest of the passage around.
_TURNING = (
  0x061C,
  0x200E,
  0x200F,
  *range(0x202A, 0x202F),
  *range(0x2066, 0x206A),
)
_VISIBLE |= {c: f'\u27e8U+{c:04X}\u27e9' for c in _TURNING}
_NAMED = str.maketrans({' ': '\u2423', '\n': '\u21b5', '\t': '\u21e5'})


def write_report(workdir: str | pathlib.Path) -> pathlib.Path:
  """Writes tables, figures and `report.html` into a run's directory.

  Args:
    workdir: a directory that training and evaluation have filled.

  Returns:
    the path of `report.html`.

  Raises:
    ConfigError: a file of the run is missing, damaged or of an older version;
      names the mode that makes it.
  """
  workdir = pathlib.Path(workdir)
  config = read_json(workdir / 'config.json', 'train')
  results = results_lib.load(workdir / results_lib.FILE)
  imported = results.train.imported
  metrics = [] if imported else read_events(workdir / METRICS)
  passage = passage_lib.load(workdir / passage_lib.FILE)

  drawings = _draw(results, metrics)
  html.write_figures(workdir, drawings)
  html.write(workdir / 'sweep.csv', tables.to_csv(results.sweep))
  html.write(workdir / 'sweep.md', tables.to_markdown(results.sweep))

  page = workdir / 'report.html'
  html.write(page, render(config, metrics, results, passage, drawings))
  return page


def render(
  config: dict[str, Any],
  metrics: list[figures.Event],
  results: Results,
  passage: Passage,
  drawings: Drawings,
) -> str:
  """The page as one string that needs nothing else.

  Args:
    config: the run's config, as JSON.
    metrics: its events.
    results: its results.
    passage: its tokens to show.
    drawings: of its figures, by name.
  """
  top = headline.headline(results)
  segments = results.model.segments
  readouts = results.readouts
  routed = routing.section(results, passage)
  shades = [100 * svg.shade(k, len(readouts)) for k in range(len(readouts))]

  return html.fill(
    'run.html',
    results=results,
    title=top.title,
    lead=top.lead,
    smoke=headline.smoke(results),
    fall=headline.last_fall(metrics, results.chosen.select_split),
    frozen=flat(config).get('train.freeze') in KEEPS_MODEL,
    full_ppl=results.off(REPORT).quality.ppl,
    thresholds=_thresholds(results),
    promised=_promised(results),
    words=words,
    clairvoyant=signals.compute_at(
      quality.clairvoyant_curve(results), results.off(REPORT).quality.ppl
    ),
    signals=signals.signal_rows(results),
    gates=signals.gate_lines(results),
    silent=signals.silent_gates(results),
    level=signals.LEVEL,
    speed=speed.section(results),
    spent=spending.rows(results.train),
    rate_of_training=spending.speed(results.train),
    readouts=tables.readout_rows(results),
    names=[drawing.cell_name(row, segments) for row in readouts],
    shades=[f'{shade:.1f}%' for shade in shades],
    figures=html.inline(drawings),
    routing=routed,
    routed_shades=routed.shades if routed else (),
    passage=passage,
    tokens=[_token(t, readouts, segments) for t in passage.tokens],
    config_text=json.dumps(config, indent=2, ensure_ascii=False),
  )


def _draw(results: Results, metrics: list[figures.Event]) -> Drawings:
  drawings = {
    'quality_vs_compute': html.draw(quality.quality_vs_compute, results),
    'exit_histogram': html.draw(figures.exit_histogram, results),
  }
  if metrics:
    drawings['training_curves'] = html.draw(figures.training_curves, metrics)
  if results.calibration:
    drawings['reliability'] = html.draw(figures.reliability, results)
  if results.gates:
    drawings['gates'] = html.draw(figures.gates, results)
  if results.segments:
    drawings['segments'] = html.draw(figures.segments, results)
  if results.speed:
    drawings['speed'] = html.draw(speed.measured, results)
  return drawings


def _thresholds(results: Results) -> list[str]:
  """What each readout asks for at the chosen point."""
  num = len(results.readouts)
  point = results.chosen.point
  if point is None:
    return ['never'] * (num - 1) + ['always']

  *early, _ = point.threshold_K(num).tolist()
  texts = [tables.reached_text(t, 3) for t in early]
  return [*texts, 'always']


def _promised(results: Results) -> list[str]:
  """The thresholds that a guarantee asked."""
  guarantee = results.chosen.guarantee
  points = [row.point for row in guarantee.asked] if guarantee else []
  return tables.threshold_texts(
    [policies.point_json(point)['threshold'] for point in points]
  )


@dataclasses.dataclass(frozen=True)
class ShownToken:
  """A token of the passage on the page.

  Attributes:
    text: what is shown.
    readout: which one answered, from 0.
    newline: whether the text is the end of a line.
    tip: what is shown when the token is pointed at.
  """

  text: str
  readout: int
  newline: bool
  tip: str


def _token(
  token: PassageToken, readouts: tuple[ReadoutRow, ...], segments: int
) -> ShownToken:
  text = token.text.translate(_VISIBLE)
  place = drawing.cell_name(readouts[token.readout], segments)
  tip = (
    f'{text.translate(_NAMED)}   exit after {place} · probability '
    f'{html.percent(token.prob)} · loss {token.nll:.2f}'
  )
  return ShownToken(text, token.readout, text == '\n', tip)
