"""The report: complete, self-contained, safe, repeatable, honest."""

import csv
import dataclasses
import io
import json
import re

import fake_run
import markupsafe
import matplotlib
import pytest

from ease_jax.checks import ConfigError
from ease_jax.core.policies import OperatingPoint
from ease_jax.report import quality, write_report

NEVER = fake_run.NEVER


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = fake_run.write_run(tmp_path_factory.mktemp('run'))
  write_report(workdir)
  return workdir


@pytest.fixture(scope='module')
def html(run):
  return (run / 'report.html').read_text(encoding='utf-8')


def outputs(workdir):
  """Every file of the report -> its bytes."""
  names = {'report.html', 'sweep.csv', 'sweep.md'}
  files = [workdir / name for name in names]
  files += workdir.glob('figures/*.svg')
  return {f.relative_to(workdir).as_posix(): f.read_bytes() for f in files}


def test_every_file_of_the_contract_is_written(run):
  assert sorted(outputs(run)) == [
    'figures/exit_histogram.svg',
    'figures/quality_vs_compute.svg',
    'figures/reliability.svg',
    'figures/training_curves.svg',
    'report.html',
    'sweep.csv',
    'sweep.md',
  ]


@pytest.mark.parametrize('share', [0.8, 0.97, 1.005, 1.3])
def test_the_chosen_point_is_in_the_figure(share):
  """However far it is from full depth, and with a margin."""
  ppl = share * fake_run.FULL_PPL
  found = fake_run.with_report_side(0.5, share)
  chosen = found.chosen
  assert chosen is not None
  side = dataclasses.replace(chosen.report, quality=fake_run.quality(ppl))
  chosen = dataclasses.replace(chosen, report=side)
  figure = quality.quality_vs_compute(dataclasses.replace(found, chosen=chosen))

  left, right = figure.axes[0].get_xlim()
  bottom, top = figure.axes[0].get_ylim()
  assert left < 0.5 < right
  margin = 0.03 * (top - bottom)
  assert bottom + margin < ppl < top - margin


def test_text_of_the_run_is_escaped_and_kept(html):
  shown = re.search(r'aria-label="Passage">(.*?)</div>', html, re.S)[1]
  spans = re.findall(r'<span class="t[^>]*>(.*?)</span>', shown, re.S)
  assert '<' not in ''.join(spans)

  text = ''.join(markupsafe.Markup(s).unescape() for s in spans)
  assert text == fake_run.SOURCE.replace('\r', '\u240d')
  # Nothing between the tokens, or pre-wrap would show it.
  assert re.sub(r'<span.*?</span>', '', shown, flags=re.S) == ''
  assert '</pre><b>' not in html
  assert '&lt;/pre&gt;&lt;b&gt;' in html


def test_page_says_what_was_kept_and_saved_and_where(html):
  title = re.search(r'<h1>(.*?)</h1>', html)[1]
  assert title == '21.0\u202f% less compute, 0.4\u202f% higher perplexity'
  for fact in (
    'entropy',
    'copy_state',
    'select split',
    'test split',
    'ab' * 32,
    '2a71f64',
    'configs/quickstart.py',
  ):
    assert fact in html, fact


def test_same_run_gives_the_same_bytes(run):
  before = outputs(run)
  write_report(run)
  assert outputs(run) == before


def test_figures_take_colours_and_fonts_from_the_page(run, html):
  svg = (run / 'figures' / 'quality_vs_compute.svg').read_text()
  assert 'currentColor' in svg
  assert 'DejaVu' not in svg

  inline = re.search(r'<svg.*?</svg>', html, re.S)[0]
  assert 'var(--s1)' in inline
  assert html.count('<style') == 1  # a drawing's own would restyle the page
  assert not re.search('#[0-9a-f]{6}"', inline)


def test_curves_of_every_policy_and_signal_end_at_exits_off(run):
  svg = (run / 'figures' / 'quality_vs_compute.svg').read_text()
  paths = re.findall(r'<path d="(M[^"]*)" clip-path', svg)
  ends = [path.strip().rsplit('L ', 1)[-1] for path in paths if 'L' in path]
  curves = len(fake_run.SIGNALS) * 2  # under two policies
  assert max(ends.count(end) for end in ends) >= curves


def test_csv_holds_every_row_of_the_sweep(run):
  rows = list(csv.DictReader(io.StringIO((run / 'sweep.csv').read_text())))
  expected = [row.to_json() for row in fake_run.results().sweep]
  assert len(rows) == len(expected)
  assert float(rows[3]['ppl']) == expected[3]['ppl']
  assert rows[0]['threshold'] == ''
  assert {row['split'] for row in rows} == {'select', 'report'}

  lists = [json.loads(r['threshold']) for r in rows if '[' in r['threshold']]
  thresholds = [row['threshold'] for row in expected]
  assert lists == [t for t in thresholds if isinstance(t, list)]


def test_markdown_is_one_table(run):
  lines = (run / 'sweep.md').read_text().splitlines()
  cells = [re.split(r'(?<!\\)\|', line)[1:-1] for line in lines]
  assert len(lines) == 2 + len(fake_run.results().sweep)
  assert {len(c) for c in cells} == {11}
  assert all(re.fullmatch(' ---:? ', c) for c in cells[1])


def test_markdown_names_the_row_with_exits_off(run):
  lines = (run / 'sweep.md').read_text().splitlines()
  assert lines[2].startswith('| select |  |  | off | 3.2522 |')
  assert sum('| off |' in line for line in lines) == 2


def no_saving_page(tmp_path, point, compute):
  results = fake_run.with_report_side(compute, ppl_vs_full=1.0)
  chosen = dataclasses.replace(results.chosen, point=point)
  results = dataclasses.replace(results, chosen=chosen)
  page = write_report(fake_run.write_run(tmp_path, results))
  return page.read_text(encoding='utf-8')


@pytest.mark.parametrize(
  'threshold, compute',
  [((NEVER,) * 4, 1.0), (0.9, 1.03), (0.9, 0.99999)],
)
def test_no_saving_is_said_plainly(tmp_path, threshold, compute):
  point = OperatingPoint('entropy', 'copy_state', threshold)
  html = no_saving_page(tmp_path, point, compute)
  assert '<h1>No saving</h1>' in html
  assert 'less compute' not in html


def test_exits_off_is_said_plainly(tmp_path):
  html = no_saving_page(tmp_path, None, 1.0)
  assert '<h1>No saving</h1>' in html
  assert 'no token stops early' in html
  assert '<b>copy_state</b>' in html  # of the curves in the figure


@pytest.mark.parametrize(
  'name, mode',
  [
    ('config.json', 'train'),
    ('metrics.jsonl', 'train'),
    ('results.json', 'evaluate'),
    ('passage.json', 'evaluate'),
  ],
)
def test_missing_file_is_one_line_with_the_fix(tmp_path, name, mode):
  (fake_run.write_run(tmp_path) / name).unlink()
  with pytest.raises(ConfigError) as error:
    write_report(tmp_path)
  assert str(error.value) == (
    f'{tmp_path / name} is missing; make it with --mode={mode}'
  )


def test_damaged_file_is_one_line(tmp_path):
  (fake_run.write_run(tmp_path) / 'results.json').write_text('{"seed": ')
  with pytest.raises(ConfigError, match='results.json is not JSON') as error:
    write_report(tmp_path)
  assert '\n' not in str(error.value)


def test_a_run_without_frontier_and_calibration_still_makes_a_page(tmp_path):
  results = fake_run.results(clairvoyant=(), calibration=())
  write_report(fake_run.write_run(tmp_path, results))
  assert not (tmp_path / 'figures' / 'reliability.svg').exists()


def test_passage_can_not_be_turned_around(tmp_path):
  token = dataclasses.replace(fake_run.passage().tokens[0], text='a\u202eb')
  passage = dataclasses.replace(fake_run.passage(), tokens=(token,))
  fake_run.write_run(tmp_path)
  (tmp_path / 'passage.json').write_text(json.dumps(passage.to_json()))
  page = write_report(tmp_path).read_text(encoding='utf-8')
  assert '\u202e' not in page
  assert 'a\u27e8U+202E\u27e9b' in page


def test_settings_of_the_user_change_no_figure(run):
  before = outputs(run)
  settings = {
    'savefig.bbox': 'tight',
    'savefig.pad_inches': 2.0,
    'savefig.transparent': True,
    'svg.fonttype': 'path',
    'axes.grid': False,
    'lines.linewidth': 9,
    'text.parse_math': True,
  }
  with matplotlib.rc_context(settings):
    write_report(run)
  assert outputs(run) == before
