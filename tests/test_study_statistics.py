"""What is made of a study's runs: curves, a frontier, paired tests."""

import dataclasses
import json
import math

import fake_run
import numpy as np
import pytest

from ease_jax.core.policies import OperatingPoint
from ease_jax.evaluate.results import REPORT, SELECT, Quality, SweepRow
from ease_jax.report.comparison import Comparison, Stretch
from ease_jax.study import frontier, statistics
from ease_jax.study.study import Study


def with_nll(nll):
  return Quality(nll, math.exp(nll), bits_per_byte=nll, accuracy=0.5)


def rows(split, settings):
  """The last of the settings is the one with exits off."""
  made = []
  for i, (compute, nll) in enumerate(settings):
    last = i == len(settings) - 1
    point = None if last else OperatingPoint('max_prob', 'copy_state', i / 10)
    cost = fake_run.cost(compute)
    made.append(SweepRow(split, point, with_nll(nll), cost))
  return made


def run_of(full_flops, select, report, seed=0):
  """A run of one readout, from (compute, nll) of each setting."""
  last = dataclasses.replace(
    fake_run.readouts()[-1],
    flops_static=full_flops,
    select=with_nll(select[-1][1]),
    report=with_nll(report[-1][1]),
  )
  return fake_run.results(
    seed=seed,
    readouts=(last,),
    sweep=(*rows(SELECT, select), *rows(REPORT, report)),
  )


def single(flops, nll, seed=0):
  """A run without exits."""
  return run_of(flops, [(1.0, nll)], [(1.0, nll)], seed)


def test_a_curve_chooses_on_select_and_reports_on_report():
  # On report the second setting would be best; select prefers the third.
  run = run_of(
    100.0,
    [(0.25, 2.0), (0.5, 1.5), (0.75, 1.2), (1.0, 1.3)],
    [(0.25, 2.1), (0.5, 1.0), (0.75, 1.4), (1.0, 1.1)],
  )
  (curve_Px2,) = frontier.points_of_budgets([run])
  assert sorted(set(map(tuple, curve_Px2.tolist()))) == [
    (25, 2.1),
    (50, 1.0),
    (75, 1.4),
  ]


def test_a_curve_is_of_the_deployed_policy():
  run = run_of(100.0, [(0.5, 1.5), (1.0, 1.0)], [(0.5, 1.6), (1.0, 1.1)])
  other = dataclasses.replace(run.chosen, policy='drop')
  run = dataclasses.replace(run, chosen=other)
  (curve_Px2,) = frontier.points_of_budgets([run])
  assert set(map(tuple, curve_Px2.tolist())) == {(100, 1.1)}  # exits off


def below(small, large, *nlls):
  """Where exits at 3/4 of 100 FLOPs lie, with these losses in the seeds.

  Args:
    small, large: FLOPs and loss of the models without exits.
    *nlls: loss of the exits, one for each seed.
  """
  exits = {}
  for seed, nll in enumerate(nlls):
    settings = [(0.75, nll), (1.0, 9.0)]
    exits[seed] = run_of(100.0, settings, settings)

  seeds = range(len(nlls))
  runs_of = {
    'small': {seed: single(*small) for seed in seeds},
    'large': {seed: single(*large) for seed in seeds},
    'exits': exits,
  }
  (item,) = frontier.frontier(('small', 'large'), runs_of).below
  assert item.variant == 'exits'
  assert item.seeds == len(nlls)
  return item


# Half of the way from 50 to 100 on a log axis is 70.7, so 75 has this loss.
LINE = 1.5 - 0.5 * math.log(75 / 50) / math.log(2)
SMALL = (50.0, 1.5)
LARGE = (100.0, 1.0)


def test_where_a_curve_lies_below_the_frontier():
  assert pytest.approx(1.2075, abs=1e-4) == LINE
  (stretch,) = below(SMALL, LARGE, 1.1, 1.2).stretches
  assert stretch.low == stretch.high == 75
  assert stretch.gain == pytest.approx(LINE - 1.15)


def test_the_frontier_is_straight_on_log_axes():
  # The straight line on linear axes would call this a win.
  assert not below(SMALL, LARGE, 1.22).stretches


def test_one_seed_above_the_line_is_no_win():
  item = below(SMALL, LARGE, 0.5, 1.3)
  assert not item.stretches
  assert item.closest > 0.3


def test_a_small_model_that_is_better_counts_at_its_budget():
  assert not below((50.0, 1.0), (100.0, 1.5), 1.2).stretches


def test_a_budget_outside_the_frontier_is_not_judged():
  item = below((10.0, 1.5), (20.0, 1.0), 0.1)
  assert not item.stretches
  assert item.closest is None


def test_wins_are_stretches():
  flops_P = np.asarray([1.0, 2, 3, 4, 5])
  gain_SxP = np.asarray([[1, 1, -1, 1, 1], [1, 2, 1, 3, -1.0]])
  inside_P = np.asarray([False, True, True, True, True])
  assert frontier.stretches(flops_P, gain_SxP, inside_P) == (
    Stretch(low=2, high=2, gain=1.5),
    Stretch(low=4, high=4, gain=2.0),
  )


def runs(seeds, shift):
  rng = np.random.default_rng(0)
  return {s: single(10.0, 2 + shift + 0.01 * rng.normal(), s) for s in seeds}


def test_pairs_need_a_common_seed():
  runs_of = {
    'a': runs((0, 1), 0),
    'b': runs((1, 2), 0.1),
    'c': runs((2,), 0),
    'd': {},
  }
  pairs = (('a', 'b'), ('a', 'c'), ('a', 'd'))
  study = Study('', '', dict.fromkeys('abcd'), (0, 1, 2), pairs)
  comparison = statistics.summarize(study, runs_of, failed=['d, seed 0: no'])

  (pair,) = comparison.pairs
  assert pair.seeds == (1,)
  assert pair.p is None
  assert [variant.name for variant in comparison.variants] == ['a', 'b', 'c']
  text = json.dumps(comparison.to_json(), allow_nan=False)
  assert Comparison.from_json(json.loads(text)) == comparison


def test_p_values_allow_for_their_number():
  # 0.01 x 3; 0.02 x 2; the third is no smaller than the second.
  adjusted = statistics.holm([0.03, 0.01, None, 0.02])
  assert adjusted == [pytest.approx(0.04), 0.03, None, pytest.approx(0.04)]


def test_a_spread_of_one_value_has_no_deviation():
  assert statistics.spread([2.0]).sd is None
  assert statistics.spread([1.0, 3.0]).sd == pytest.approx(math.sqrt(2))
