"""Studies: runs that resume and fail alone, and the page that they make."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.stats
from small_run import TEXT, make_config

from ease_jax.checks import ConfigError
from ease_jax.evaluate import results as results_lib
from ease_jax.study.compare import compare
from ease_jax.study.study import Study

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope='module')
def compared(tmp_path_factory):
  """Two variants, two seeds, and one that diverges."""
  folder = tmp_path_factory.mktemp('compared')
  (folder / 'text.txt').write_text(TEXT)
  lost = make_config(folder / 'text.txt')
  lost.optimizer.learning_rate = 1e30
  study = Study(
    'Title',
    'Question?',
    {
      'one layer': make_config(folder / 'text.txt'),
      'two': make_config(folder / 'text.txt', 2),
      'lost': lost,
    },
    seeds=(0, 1),
    pairs=(('two', 'one layer'),),
    frontier=('one layer',),
  )
  failed = compare(study, folder / 'out', command='make the study')
  return folder / 'out', study, failed


def summary_of(folder):
  return json.loads((folder / 'comparison.json').read_text())


def results_of(folder, variant, seed):
  return results_lib.load(
    folder / 'runs' / variant / str(seed) / 'results.json'
  )


def test_a_failed_run_loses_no_other(compared):
  out, _, failed = compared
  assert len(failed) == 2
  for seed, line in enumerate(failed):
    assert line.startswith(f'lost, seed {seed}: training diverged at step')

  summary = summary_of(out)
  assert [v['name'] for v in summary['variants']] == ['one layer', 'two']
  assert summary['failed'] == failed
  assert (out / 'runs' / 'two' / '1' / 'log.txt').exists()


def test_runs_start_from_those_of_another_variant(tmp_path):
  (tmp_path / 'text.txt').write_text(TEXT)
  late = make_config(tmp_path / 'text.txt')
  late.train.init_from = 'base'  # the study puts a folder in its place
  study = Study(
    'Title',
    'Question?',
    {'late': late, 'base': make_config(tmp_path / 'text.txt')},
    seeds=(0, 1),
    pairs=(('late', 'base'),),
    starts=(('late', 'base'),),
  )
  out = tmp_path / 'out'
  assert compare(study, out) == []  # of runs that have no source, one fails
  for seed in ('0', '1'):
    config = json.loads(
      (out / 'runs' / 'late' / seed / 'config.json').read_text()
    )
    source = pathlib.Path(config['train']['init_from'])
    assert source == out / 'runs' / 'base' / seed
    late_ppl, base_ppl = (
      results_of(out, name, seed).readouts[-1].report.ppl
      for name in ('late', 'base')
    )
    assert late_ppl < base_ppl  # trained twice as long


def test_every_file_of_a_study_is_written(compared):
  out, _, _ = compared
  for name in (
    'comparison.md',
    'comparison.csv',
    'report.html',
    'figures/perplexities.svg',
    'figures/frontier.svg',
  ):
    assert (out / name).stat().st_size > 100, name

  page = (out / 'report.html').read_text()
  assert 'lost, seed 0' in page
  assert 'two against one layer, both at full depth: ' in page
  assert 'Pairs of variants: 1.' in page
  assert 'make the study' in page
  assert 'model.num_layers=2' in page
  assert 'http' not in page.replace('http://www.w3.org', '')


def test_numbers_are_those_of_the_runs(compared):
  out, study, _ = compared
  one, two = summary_of(out)['variants']
  runs = [results_of(out, 'two', seed) for seed in study.seeds]
  ppl = [run.readouts[-1].report.ppl for run in runs]

  assert ppl[0] != ppl[1]
  assert two['report_ppl']['values'] == ppl
  assert two['report_ppl']['mean'] == pytest.approx(np.mean(ppl))
  assert two['report_ppl']['sd'] == pytest.approx(np.std(ppl, ddof=1))
  assert two['params'] == runs[0].model.params
  assert two['params'] > one['params']


def test_a_pair_is_held_together_by_seed(compared):
  out, _, _ = compared
  summary = summary_of(out)
  one, two = summary['variants']
  (pair,) = summary['pairs']

  ppl = np.asarray(two['report_ppl']['values'])
  baseline = np.asarray(one['report_ppl']['values'])
  change = ppl / baseline - 1
  np.testing.assert_allclose(pair['change']['values'], change)

  # No narrower than seeds alone would make it.
  difference = np.log(ppl / baseline)
  seeds_only = scipy.stats.ttest_1samp(difference, 0).confidence_interval()
  assert pair['ratio'] == pytest.approx(np.exp(difference.mean()))
  assert pair['interval']['high'] >= np.exp(seeds_only.high)
  assert pair['equal'] == ['updates']
  assert pair['ratios']['flops'] > 1.1


def forget_field(path):
  """As if the run had been made before there was such a field."""
  tree = json.loads(path.read_text())
  del tree['loss']['exit_score']
  path.write_text(json.dumps(tree))


def test_the_same_command_runs_only_what_is_missing(compared, capsys):
  out, study, failed = compared

  def stamps():
    paths = out.glob('runs/*/*/results.json')
    return {path: path.stat().st_mtime_ns for path in paths}

  forget_field(out / 'runs' / 'one_layer' / '0' / 'config.json')
  before = stamps()
  missing = out / 'runs' / 'two' / '1' / 'results.json'
  missing.unlink()
  assert compare(study, out) == failed

  after = stamps()
  assert [path for path in before if before[path] != after[path]] == [missing]
  *lines, last = capsys.readouterr().out.splitlines()
  assert last == f'Report: {out.resolve() / "report.html"}'
  assert [line.split(']')[0] for line in lines] == ['[4/6', '[5/6', '[6/6']


def wait_until(condition, seconds, pause):
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline
    time.sleep(pause)


def test_a_killed_comparison_leaves_no_run_behind(tmp_path):
  (tmp_path / 'text.txt').write_text(TEXT)
  (tmp_path / 'script.py').write_text(f"""
from small_run import make_config
from test_study import Study, compare

if __name__ == '__main__':
  c = make_config({str(tmp_path / 'text.txt')!r}, steps=1_000_000)
  study = Study('', '', {{'long': c}}, (0,), ())
  compare(study, {str(tmp_path / 'out')!r})
""")
  path = f'{ROOT}{os.pathsep}{ROOT / "tests"}'
  process = subprocess.Popen(
    [sys.executable, tmp_path / 'script.py'],
    env=os.environ | {'PYTHONPATH': path},
  )
  metrics = tmp_path / 'out' / 'runs' / 'long' / '0' / 'metrics.jsonl'

  def is_training():
    assert process.poll() is None
    return metrics.exists() and metrics.stat().st_size

  sizes = [-1]

  def stands_still():
    sizes.append(metrics.stat().st_size)
    return sizes[-1] == sizes[-2]

  wait_until(is_training, 60, 0.1)
  process.kill()
  process.wait()
  wait_until(stands_still, 30, 1.5)


def test_another_evaluation_is_made_again(compared, tmp_path):
  """What does not train may change."""
  there, study, _ = compared
  out = shutil.copytree(there, tmp_path / 'out')
  metrics = out / 'runs' / 'two' / '0' / 'metrics.jsonl'
  before = metrics.read_bytes()

  c = study.variants['two'].copy_and_resolve_references()
  c.exit.thresholds.max_prob = (0.25,)
  variants = {'one layer': study.variants['one layer'], 'two': c}
  changed = dataclasses.replace(study, variants=variants)
  assert compare(changed, out) == []

  for seed in study.seeds:
    rows = results_of(out, 'two', seed).sweep
    assert 0.25 in [row.point.threshold for row in rows if row.point]
  assert metrics.read_bytes() == before


@pytest.mark.parametrize('name', ['results.json', 'windows.json'])
def test_files_of_another_run_are_refused(compared, tmp_path, name):
  there, study, _ = compared
  out = shutil.copytree(there, tmp_path / 'out')
  runs = out / 'runs'
  shutil.copy(runs / 'one_layer' / '0' / name, runs / 'two' / '0' / name)
  page = (out / 'report.html').read_bytes()
  with pytest.raises(ConfigError, match=name):
    compare(dataclasses.replace(study, variants=made(study)), out)
  assert (out / 'report.html').read_bytes() == page


def made(study):
  """The variants of a study whose runs do not fail."""
  return {name: c for name, c in study.variants.items() if name != 'lost'}


@pytest.mark.parametrize('name', ['report.html', 'comparison.csv'])
def test_what_no_study_has_made_is_not_replaced(compared, tmp_path, name):
  _, study, _ = compared
  (tmp_path / name).write_text('mine')
  with pytest.raises(ConfigError, match=f'{name} lies there without a compar'):
    compare(study, tmp_path)
  assert (tmp_path / name).read_text() == 'mine'
  assert not (tmp_path / 'runs').exists()


def test_another_config_in_the_same_place_is_refused(compared):
  out, study, _ = compared
  c = study.variants['two'].copy_and_resolve_references()
  c.train.steps = 5
  changed = dataclasses.replace(study, variants=study.variants | {'two': c})
  with pytest.raises(ConfigError, match='train.steps=4 there, 5 here'):
    compare(changed, out)
