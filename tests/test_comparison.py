"""Comparisons: runs that resume and fail alone, and what is made of them."""

import dataclasses
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.stats

from ease_jax import config, machine, validation
from ease_jax.config import ConfigError
from ease_jax.core import costs
from ease_jax.study import main, statistics, study, workers
from ease_jax.study.study import Study

ROOT = pathlib.Path(__file__).parent.parent
TEXT = 'the quick brown fox jumps over the lazy dog\n' * 100


def make_config(path, layers=1, **train):
  c = config.base()
  c.data.update(
    source='text',
    path=(str(path),),
    seq_len=8,
    select_fraction=0.2,
    test_fraction=0.2,
  )
  c.model.update(
    num_layers=layers, dim=8, num_heads=1, num_kv_heads=1, mlp_dim=8
  )
  c.train.update(
    steps=4, batch_size=2, eval_every=2, checkpoint_every=2, log_every=1
  )
  c.train.update(train)
  c.evaluate.max_tokens = 64
  c.exit.update(signals=('max_prob',), policies=('copy_state',))
  c.exit.search_points = 1
  return c


@pytest.fixture(scope='module')
def compared(tmp_path_factory):
  """Two variants, two seeds, and one whose data is missing."""
  folder = tmp_path_factory.mktemp('compared')
  (folder / 'text.txt').write_text(TEXT)
  exp = Study(
    'Title',
    'Question?',
    {
      'one layer': make_config(folder / 'text.txt'),
      'two': make_config(folder / 'text.txt', 2),
      'gone': make_config(folder / 'none.txt'),
    },
    seeds=(0, 1),
    pairs=(('two', 'one layer'),),
    frontier=('one layer',),
  )
  failed = study.compare(exp, folder / 'out', jobs=1)
  return folder / 'out', exp, failed


def test_a_failed_run_loses_no_other(compared):
  out, _, failed = compared
  assert len(failed) == 2
  for seed, line in enumerate(failed):
    assert line.startswith(f'gone, seed {seed}: ') and 'none.txt' in line
  summary = json.loads((out / 'comparison.json').read_text())
  assert [v['name'] for v in summary['variants']] == ['one layer', 'two']
  assert summary['failed'] == failed
  for name in (
    'comparison.md',
    'comparison.csv',
    'report.html',
    'figures/perplexities.svg',
    'figures/frontier.svg',
  ):
    assert (out / name).stat().st_size > 100
  page = (out / 'report.html').read_text()
  assert 'gone, seed 0' in page and 'http' not in page.replace(
    'http://www.w3.org', ''
  )
  assert (out / 'runs' / 'two' / '1' / 'log.txt').exists()


def test_numbers_are_those_of_the_runs(compared):
  out, exp, _ = compared
  summary = json.loads((out / 'comparison.json').read_text())
  one, two = summary['variants']
  results = [
    json.loads((out / 'runs' / 'two' / str(s) / 'results.json').read_text())
    for s in exp.seeds
  ]
  ppl = [r['readouts'][-1]['test']['ppl'] for r in results]
  assert two['test_ppl']['values'] == ppl and ppl[0] != ppl[1]
  assert two['test_ppl']['mean'] == pytest.approx(np.mean(ppl))
  assert two['test_ppl']['sd'] == pytest.approx(np.std(ppl, ddof=1))
  assert two['params'] == results[0]['model']['params'] > one['params']
  (pair,) = summary['pairs']
  change = np.asarray(ppl) / one['test_ppl']['values'] - 1
  np.testing.assert_allclose(pair['change']['values'], change)
  test = scipy.stats.ttest_rel(np.log(ppl), np.log(one['test_ppl']['values']))
  assert pair['p'] == pair['p_holm'] == pytest.approx(test.pvalue)
  assert pair['equal'] == ['updates']
  assert pair['ratios']['flops'] > 1.1


def test_the_same_command_runs_only_what_is_missing(compared, capsys):
  out, exp, failed = compared
  stamp = lambda: {
    p: p.stat().st_mtime_ns for p in out.glob('runs/*/*/results.json')
  }
  before = stamp()
  (out / 'runs' / 'two' / '1' / 'results.json').unlink()
  assert study.compare(exp, out) == failed
  after = stamp()
  changed = [p for p in before if before[p] != after[p]]
  assert changed == [out / 'runs' / 'two' / '1' / 'results.json']
  *lines, last = capsys.readouterr().out.splitlines()
  assert last == f'Report: {out.resolve() / "report.html"}'
  assert [line.split(']')[0] for line in lines] == ['[4/6', '[5/6', '[6/6']


def test_a_killed_comparison_leaves_no_run_behind(tmp_path):
  (tmp_path / 'text.txt').write_text(TEXT)
  (tmp_path / 'script.py').write_text(f"""
from test_comparison import Study, comparison, make_config

if __name__ == '__main__':
  c = make_config({str(tmp_path / 'text.txt')!r}, steps=1_000_000)
  exp = Study('', '', {{'long': c}}, (0,), ())
  comparison.compare(exp, {str(tmp_path / 'out')!r})
""")
  path = f'{ROOT}{os.pathsep}{ROOT / "tests"}'
  process = subprocess.Popen(
    [sys.executable, tmp_path / 'script.py'],
    env=os.environ | {'PYTHONPATH': path},
  )
  metrics = tmp_path / 'out' / 'runs' / 'long' / '0' / 'metrics.jsonl'
  deadline = time.monotonic() + 60
  while not metrics.exists() or not metrics.stat().st_size:
    assert process.poll() is None and time.monotonic() < deadline
    time.sleep(0.1)
  process.kill()
  process.wait()
  deadline, size = time.monotonic() + 30, -1
  while size != (size := metrics.stat().st_size):  # until it stands still
    assert time.monotonic() < deadline
    time.sleep(1.5)


def test_another_evaluation_is_made_again(compared):
  """What does not train may change, but not for some of the runs."""
  out, exp, _ = compared
  variants = {
    k: v.copy_and_resolve_references()
    for k, v in exp.variants.items()
    if k != 'gone'
  }
  before = (out / 'runs' / 'two' / '0' / 'metrics.jsonl').read_bytes()
  for c in variants.values():
    c.exit.thresholds.max_prob = (0.25,)
  changed = dataclasses.replace(exp, variants=variants)
  assert study.compare(changed, out) == []
  for seed in exp.seeds:
    results = json.loads(
      (out / 'runs' / 'two' / str(seed) / 'results.json').read_text()
    )
    assert 0.25 in [row['threshold'] for row in results['sweep']]
  assert before == (out / 'runs' / 'two' / '0' / 'metrics.jsonl').read_bytes()
  study.compare(exp, out)


def test_another_config_in_the_same_place_is_refused(compared):
  out, exp, _ = compared
  c = exp.variants['two'].copy_and_resolve_references()
  c.train.steps = 5
  changed = exp.variants | {'two': c}
  with pytest.raises(ConfigError, match='train.steps=4 there, 5 here'):
    study.compare(Study('', '', changed, exp.seeds, exp.pairs), out)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'seeds': ()}, 'seeds=() must be different ones, at least one'),
    ({'seeds': (1, 1)}, 'seeds=(1, 1) must be different ones, at least one'),
    (
      {'pairs': (('a', 'c'),)},
      "the study names 'c', which is none of its variants: a, b",
    ),
    (
      {'frontier': ('d',)},
      "the study names 'd', which is none of its variants: a, b",
    ),
    ({'jobs': 0}, '--jobs=0 must be at least 1'),
    (
      {'names': ('a + b', 'a, b')},
      "variants 'a + b', 'a, b' would run in the folder 'a_b'; rename one",
    ),
    (
      {'names': ('+', 'b')},
      "variants '+' would run in the folder ''; rename one",
    ),
    ({'layers': 0}, "variant 'a': model.num_layers=0 must be at least 1"),
  ],
)
def test_mistakes_in_a_study(changes, message, tmp_path):
  c = make_config('x', changes.get('layers', 1))
  exp = Study(
    '',
    '',
    dict.fromkeys(changes.get('names', ('a', 'b')), c),
    changes.get('seeds', (0,)),
    changes.get('pairs', ()),
    changes.get('frontier', ()),
  )
  with pytest.raises(ConfigError) as error:
    study.compare(exp, tmp_path, changes.get('jobs', 1))
  assert str(error.value) == message
  assert not list(tmp_path.iterdir())


def test_study_files_that_are_none(tmp_path):
  with pytest.raises(ConfigError, match='is no file'):
    main.load('nowhere.py', 'data')
  (tmp_path / 'empty.py').write_text('')
  with pytest.raises(ConfigError, match='no function get_study'):
    main.load(str(tmp_path / 'empty.py'), 'data')


# --------------------------------------------------------- equal in what


def refined(c, segments=2, **train):
  c = c.copy_and_resolve_references()
  c.model.update(body='refine', segments=segments)
  c.loss.weights = 'segment_ends'
  c.train.update(train)
  return c


def test_equal_training_flops():
  base = make_config('x', 2, steps=1000)
  for c in (refined(base), refined(base, 3, updates='per_segment')):
    equal = study.with_equal_training(c, base, 50)
    assert study.train_flops(equal, 50) == pytest.approx(
      study.train_flops(base, 50), rel=2e-3
    )
    assert equal.train.steps < 510
    assert c.train.steps == 1000  # a copy


def test_equal_updates_and_depth():
  base = make_config('x', 2, steps=1000)
  per = refined(base, updates='per_segment')
  assert study.with_equal_updates(per, base).train.steps == 500
  assert study.with_equal_updates(refined(base), base).train.steps == 1000
  deep = study.with_equal_depth(base, refined(base, 3))
  assert deep.model.num_layers == 6
  flops = lambda c: costs.full_flops(config.model_config(c, 50), 4.5)
  assert flops(deep) == flops(refined(base, 3))


def test_a_stretched_run_keeps_the_share_of_its_schedules():
  base = make_config('x', 2, steps=1000, eval_every=100, checkpoint_every=200)
  base.optimizer.warmup_steps, base.loss.schedule_steps = 50, 300
  numbers = lambda c: (
    c.train.steps,
    c.train.eval_every,
    c.train.checkpoint_every,
    c.optimizer.warmup_steps,
    c.loss.schedule_steps,
  )
  half, double = (study.stretched(base, ratio) for ratio in (0.5, 2))
  assert numbers(half) == (500, 50, 100, 25, 150)
  assert numbers(double) == (2000, 200, 400, 100, 600)
  assert numbers(base) == (1000, 100, 200, 50, 300)  # it was a copy
  # None stays none, and the shortest is one step.
  base.optimizer.warmup_steps, base.loss.schedule_steps = 0, 1
  assert numbers(study.stretched(base, 0.25)) == (250, 25, 50, 0, 1)


# ---------------------------------------------------------------- curves


def fake_run(full_flops, select, test):
  """(compute, nll) of each setting on both splits."""
  rows = [
    {'split': split, 'kv_policy': 'copy_state', 'compute': c, 'nll': nll}
    for split, points in (('select', select), ('test', test))
    for c, nll in points
  ]
  last = {
    'cost_flops': full_flops,
    'cost': 1.0,
    'test': {'nll': test[-1][1], 'ppl': math.exp(test[-1][1])},
  }
  return {
    'sweep': rows,
    'readouts': [last],
    'chosen': {
      'kv_policy': 'copy_state',
      'select_split': 'select',
      'report_split': 'test',
    },
  }


def test_a_curve_chooses_on_select_and_reports_on_test():
  # On test the second setting would be the best one; select prefers the third.
  run = fake_run(
    100.0,
    [(0.25, 2.0), (0.5, 1.5), (0.75, 1.2), (1.0, 1.3)],
    [(0.25, 2.1), (0.5, 1.0), (0.75, 1.4), (1.0, 1.1)],
  )
  (curve_Px2,) = statistics._curves([run])
  assert sorted(set(map(tuple, curve_Px2.tolist()))) == [
    (25, 2.1),
    (50, 1.0),
    (75, 1.4),
  ]


def single(flops, nll):
  return fake_run(flops, [(1.0, nll)], [(1.0, nll)])


def frontier_of(small, large, *seeds):
  """Where exits at 3/4 of 100 FLOPs lie, with these losses in the seeds."""
  points = lambda nll: [(0.75, nll), (1.0, 9.0)]
  found = {
    'small': {s: single(*small) for s in range(len(seeds))},
    'large': {s: single(*large) for s in range(len(seeds))},
    'exits': {
      s: fake_run(100.0, points(nll), points(nll))
      for s, nll in enumerate(seeds)
    },
  }
  (item,) = statistics._frontier(('small', 'large'), found)['below']
  assert item['variant'] == 'exits'
  return item


def test_where_a_curve_lies_below_the_frontier():
  # Half of the way from 50 to 100 on a log axis is 70.7, so 75 has 1.2075.
  line = np.interp(np.log(75), np.log([50, 100]), [1.5, 1.0])
  assert line == pytest.approx(1.2075, abs=1e-4)
  item = frontier_of((50.0, 1.5), (100.0, 1.0), 1.1, 1.2)
  (stretch,) = item['stretches']
  assert stretch['from'] == stretch['to'] == 75
  assert stretch['gain'] == pytest.approx(line - 1.15)
  # The straight line on linear axes would call this a win.
  assert frontier_of((50.0, 1.5), (100.0, 1.0), 1.22)['stretches'] == []
  # One seed above the line: no win, whatever the mean.
  item = frontier_of((50.0, 1.5), (100.0, 1.0), 0.5, 1.3)
  assert item['stretches'] == [] and item['closest'] > 0.3
  # A smaller model that is better than the larger one counts at its budget.
  assert frontier_of((50.0, 1.0), (100.0, 1.5), 1.2)['stretches'] == []


def test_wins_are_stretches():
  flops_P = np.asarray([1.0, 2, 3, 4, 5])
  gain_SxP = np.asarray([[1, 1, -1, 1, 1], [1, 2, 1, 3, -1.0]])
  inside_P = np.asarray([False, True, True, True, True])
  got = statistics._ranges(flops_P, gain_SxP, inside_P)
  assert got['stretches'] == [
    {'from': 2, 'to': 2, 'gain': 1.5},
    {'from': 4, 'to': 4, 'gain': 2.0},
  ]
  assert got['closest'] == 2.0


def test_pairs_need_a_common_seed_and_allow_for_their_number():
  def runs(seeds, shift):
    rng = np.random.default_rng(0)
    made = {}
    for s in seeds:
      made[s] = single(10.0, 2.0 + shift + 0.01 * rng.normal())
      made[s] |= {
        'seed': s,
        'model': {'params': 1},
        'train': dict(steps=1, updates=1, tokens=1, flops=1.0),
      }
      made[s]['readouts'][0]['select'] = {'ppl': 1.0}
      made[s]['chosen']['test'] = {'ppl': 1.0, 'compute': 1.0}
    return made

  found = {
    'a': runs((0, 1), 0),
    'b': runs((1, 2), 0.1),
    'c': runs((2,), 0),
    'd': {},
  }
  exp = Study(
    '',
    '',
    dict.fromkeys('abcd'),
    (0, 1, 2),
    (('a', 'b'), ('a', 'c'), ('a', 'd')),
  )
  summary = statistics.summarize(exp, found)
  json.dumps(summary, allow_nan=False)
  (pair,) = summary['pairs']
  assert pair['seeds'] == [1] and pair['p'] is None
  assert [v['name'] for v in summary['variants']] == ['a', 'b', 'c']
  # Holm: 0.01 x 3; 0.02 x 2; the third is no smaller than the second.
  pairs = [{'p': p} for p in (0.03, 0.01, None, 0.02)]
  got = [p['p_holm'] for p in statistics._adjusted(pairs)]
  assert got[2] is None
  np.testing.assert_allclose([*got[:2], got[3]], [0.04, 0.03, 0.04])


# --------------------------------------------------------------- workers


def die_or_work(what):
  if what == 'die':
    os.kill(os.getpid(), signal.SIGKILL)
  return f'did {what}'


def test_a_worker_that_dies_loses_its_own_task_only():
  worker = workers.Worker(die_or_work, machine.cores())
  said = []
  for what in ('a', 'die', 'b'):
    worker.give((what,))
    assert workers.ready([worker]) == [worker]
    said.append(worker.take())
  worker.stop()
  assert said == [
    'did a',
    'its process died (exit code -9); the same command goes on',
    'did b',
  ]


# ------------------------------------------------------------- the files


CONFIGS = sorted((ROOT / 'configs').glob('*.py'))
STUDIES = sorted((ROOT / 'configs' / 'studies').glob('*.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
@pytest.mark.parametrize('argument', ['', 'smoke'])
def test_every_config_is_valid(path, argument):
  scope = {}
  exec(compile(path.read_text(), path, 'exec'), scope)
  c = scope['get_config'](argument)
  validation.validate(c)  # or it raises
  assert (c.train.steps <= 20) == (argument == 'smoke')
  for part in (
    f'--config=configs/{path.name}',
    '--workdir=',
    'Cost: ',
    'perplexity of',
  ):
    assert part in scope['__doc__'], 'a header says command, cost and numbers'


@pytest.mark.parametrize('path', STUDIES, ids=lambda p: p.stem)
@pytest.mark.parametrize('argument', ['', ':smoke'])
def test_every_study_is_valid(path, argument):
  exp = main.load(f'{path}{argument}', 'folder')
  study._check(exp, 1)  # or it raises
  assert all(
    (c.train.steps <= 20) == bool(argument) for c in exp.variants.values()
  )
  assert len(exp.seeds) >= 3  # a ranking of fewer is none


def test_equal_compute_is_equal():
  exp = main.load(
    str(ROOT / 'configs' / 'studies' / 'equal_compute.py'), 'folder'
  )
  flops = {n: study.train_flops(c, 172) for n, c in exp.variants.items()}
  for name, value in flops.items():
    small = '1 layer' in name or '2 layers' in name
    like = flops['standard, 1 layer' if small else 'standard']
    assert value == pytest.approx(like, rel=0.02), name
