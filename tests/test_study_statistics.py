"""What is made of a study's runs: curves, a frontier, differences."""

import dataclasses
import json
import math

import fake_run
import numpy as np
import pytest

from ease_jax.core.policies import OperatingPoint
from ease_jax.evaluate.results import REPORT, SELECT, Quality, SweepRow
from ease_jax.evaluate.windows import Sums, Windows
from ease_jax.report.comparison import Comparison
from ease_jax.study import frontier, statistics
from ease_jax.study.study import Evaluated, Study, changes

NUM = 40  # windows of 10 tokens


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


def sums(compute, nll, full_flops, spread=0.0):
  """A setting on all windows, its loss above and below the mean in turn."""
  nll_W = nll + spread * np.where(np.arange(NUM) % 2, 1, -1)
  flops = 10 * compute * full_flops
  return Sums(tuple((10 * nll_W).tolist()), (flops,) * NUM)


def run_of(full_flops, select, report, seed=0, spread=0.0, spared=0.0):
  """A run of one readout, from (compute, nll) of each setting."""
  last = dataclasses.replace(
    fake_run.readouts()[-1],
    flops_static=full_flops - spared,
    select=with_nll(select[-1][1]),
    report=with_nll(report[-1][1]),
  )
  chosen = dataclasses.replace(fake_run.chosen(), point=None)
  results = fake_run.results(
    seed=seed,
    readouts=(last,),
    chosen=chosen,
    sweep=(*rows(SELECT, select), *rows(REPORT, report)),
  )
  points = tuple(sums(c, nll, full_flops, spread) for c, nll in report)
  windows = Windows('test', full_flops, (10,) * NUM, (points[-1],), points)
  return Evaluated(results, windows)


def single(flops, nll, seed=0):
  """A run without exits."""
  return run_of(flops, [(1.0, nll)], [(1.0, nll)], seed)


def curve(run):
  """FLOPs and loss at its budgets, each once."""
  flops_1xP, nll_1xP = frontier.sums_of_budgets([run]).totals
  pairs = zip(flops_1xP[0].tolist(), nll_1xP[0].round(6).tolist())
  return sorted(set(pairs))


def test_a_curve_chooses_on_select_and_reports_on_report():
  # On report the second setting would be best; select prefers the third.
  run = run_of(
    100.0,
    [(0.25, 2.0), (0.5, 1.5), (0.75, 1.2), (1.0, 1.3)],
    [(0.25, 2.1), (0.5, 1.0), (0.75, 1.4), (1.0, 1.1)],
  )
  assert curve(run) == [(25, 2.1), (50, 1.0), (75, 1.4)]


def test_a_curve_is_of_the_deployed_policy():
  run = run_of(100.0, [(0.5, 1.5), (1.0, 1.0)], [(0.5, 1.6), (1.0, 1.1)])
  other = dataclasses.replace(run.results.chosen, policy='drop')
  results = dataclasses.replace(run.results, chosen=other)
  assert curve(run._replace(results=results)) == [(100, 1.1)]  # exits off


def test_routers_that_spare_do_not_make_a_full_pass_cheaper():
  """`compute` is a share of a pass in which nobody is kept out of a cell."""
  settings = [(0.25, 2.0), (0.5, 1.0)]
  runs = [
    run_of(100.0, settings, settings, spared=spared) for spared in (0.0, 50.0)
  ]
  flops_SxP, _ = frontier.sums_of_budgets(runs).totals
  np.testing.assert_array_equal(flops_SxP[0], flops_SxP[1])

  study = Study('', '', {'mod': {}}, (0, 1), ())
  summary = statistics.summarize(
    study, {'mod': dict(enumerate(runs))}, [], runs[0].results.provenance
  )
  (variant,) = summary.variants
  compute = runs[0].results.chosen.report.cost.compute
  assert variant.chosen_flops.values == (100 * compute,) * 2


def judged(small, large, *nlls, spread=0.0):
  """Where exits at 3/4 of 100 FLOPs lie, with these losses in the seeds.

  Args:
    small, large: FLOPs and loss of the models without exits.
    *nlls: loss of the exits, one for each seed.
    spread: of the loss of the exits over the windows.
  """
  exits = {}
  for seed, nll in enumerate(nlls):
    settings = [(0.75, nll), (1.0, 9.0)]
    exits[seed] = run_of(100.0, settings, settings, spread=spread)

  seeds = range(len(nlls))
  runs_of = {
    'small': {seed: single(*small) for seed in seeds},
    'large': {seed: single(*large) for seed in seeds},
    'exits': exits,
  }
  (item,) = frontier.frontier(('small', 'large'), runs_of).judged
  assert item.variant == 'exits'
  assert item.seeds == len(nlls)
  return item.stretches


# Half of the way from 50 to 100 on a log axis is 70.7, so 75 has this loss.
LINE = 1.5 - 0.5 * math.log(75 / 50) / math.log(2)
SMALL = (50.0, 1.5)
LARGE = (100.0, 1.0)


def test_where_a_curve_lies_below_the_frontier():
  assert pytest.approx(1.2075, abs=1e-4) == LINE
  (first,) = judged(SMALL, LARGE, 1.1, 1.11)
  assert first.low == first.high == 75
  assert first.ratio == pytest.approx(math.exp(1.105 - LINE))
  assert first.interval.high < 1
  # A t-test's interval of two seeds: 12.7 standard errors.
  half = 12.706 * 0.005
  assert first.interval.low == pytest.approx(
    math.exp(1.105 - LINE - half), rel=1e-3
  )


def test_the_chosen_point_is_judged_as_well():
  runs_of = {
    'small': {0: single(*SMALL)},
    'large': {0: single(*LARGE)},
    'exits': {0: run_of(100.0, *[[(0.75, 1.1), (1.0, 1.05)]] * 2)},
  }
  chosen = runs_of['exits'][0].results.chosen
  for point, flops, ratio in (
    (OperatingPoint('max_prob', 'copy_state', 0.0), 75, math.exp(1.1 - LINE)),
    (None, 100, math.exp(0.05)),
  ):
    other = dataclasses.replace(chosen, point=point)
    evaluated = runs_of['exits'][0]
    results = dataclasses.replace(evaluated.results, chosen=other)
    runs_of['exits'][0] = evaluated._replace(results=results)
    (item,) = frontier.frontier(('small', 'large'), runs_of).judged
    assert item.chosen.low == item.chosen.high == flops
    assert item.chosen.ratio == pytest.approx(ratio)


def test_the_frontier_is_straight_on_log_axes():
  # The straight line on linear axes would call this a win.
  first, *_ = judged(SMALL, LARGE, 1.22)
  assert first.interval.low > 1


def test_below_in_every_seed_may_be_chance():
  first, *_ = judged(SMALL, LARGE, 1.20, 1.0)
  assert first.ratio < 1
  assert not first.interval.excludes(1)


def test_other_windows_may_be_other():
  narrow, *_ = judged(SMALL, LARGE, 1.15, spread=0.01)
  wide, *_ = judged(SMALL, LARGE, 1.15, spread=1.0)
  assert narrow.interval.excludes(1)
  assert not wide.interval.excludes(1)


def test_a_small_model_that_is_better_counts_at_its_budget():
  first, *_ = judged((50.0, 1.0), (100.0, 1.5), 1.2)
  assert first.ratio == pytest.approx(math.exp(0.2))


def test_a_budget_outside_the_frontier_is_not_judged():
  assert judged((10.0, 1.5), (20.0, 1.0), 0.1) == ()


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
  variants = {name: {} for name in 'abcd'}
  study = Study('', '', variants, (0, 1, 2), pairs)
  comparison = statistics.summarize(
    study, runs_of, ['d, seed 0: no'], fake_run.results().provenance
  )

  (pair,) = comparison.pairs
  assert pair.seeds == (1,)
  assert pair.interval.low == pytest.approx(pair.ratio)  # windows are alike
  assert [variant.name for variant in comparison.variants] == ['a', 'b', 'c']
  text = json.dumps(comparison.to_json(), allow_nan=False)
  assert Comparison.from_json(json.loads(text)) == comparison


def test_a_spread_of_one_value_has_no_deviation():
  assert statistics.spread([2.0]).sd is None
  assert statistics.spread([1.0, 3.0]).sd == pytest.approx(math.sqrt(2))


def test_what_sets_a_variant_apart():
  variants = {'a': {'x': 1, 'y': {'z': 2}}, 'b': {'x': 1, 'y': {'z': 3}}}
  assert changes(variants) == {'a': (), 'b': ('y.z=3',)}


def test_variants_on_other_windows_have_no_interval():
  other = single(10.0, 2.0)
  tokens = (20, *other.windows.tokens[1:])
  windows = dataclasses.replace(other.windows, tokens=tokens)
  runs_of = {
    'a': {0: single(10.0, 2.1)},
    'b': {0: other._replace(windows=windows)},
  }
  study = Study('', '', {'a': {}, 'b': {}}, (0,), (('a', 'b'),))
  comparison = statistics.summarize(
    study, runs_of, [], fake_run.results().provenance
  )
  assert comparison.pairs[0].interval is None
