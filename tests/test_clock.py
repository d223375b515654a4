"""What is timed is what was evaluated; the times themselves are not tested."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest
import sweeps
from sweeps import NEVER, chosen, point, report_row, row

import tiny
from ease_jax import decode
from ease_jax.checks import ConfigError
from ease_jax.core import shortlist
from ease_jax.evaluate import clock, passes

LENGTH = sweeps.LENGTH
WINDOWS = 3
CONTEXT = (LENGTH + 1) / 2
SPEC = sweeps.spec(speed_tokens=LENGTH * WINDOWS)
SHAPES = {
  'stack': dict(num_layers=4, readouts=(1, 2, 4)),
  'near': dict(num_layers=4, readouts=(1, 2, 4), window=4),
  'refine': dict(body='refine', segments=2, num_layers=2),
  'mor': dict(body='cycle', num_layers=4, times=2, own=0, router='mor'),
}


def sweep_of(policy):
  """Seven points of a policy on report, and rows that are none of them."""
  rows = [
    report_row(None, 3.0, 1.0),
    row(point(0.9, policy), 3.9, 0.9),  # of the other split
    report_row(point(0.9, 'drop'), 3.9, 0.9),
    report_row(point(0.9, policy, 'margin'), 3.9, 0.9),
  ]
  for threshold, compute in (
    (0.1, 0.3),
    (0.6, 0.8),
    (0.2, 0.4),
    (0.3, 0.5),
    (0.5, 0.7),
    (0.55, 0.75),
    (0.05, 0.2),
  ):
    rows.append(report_row(point(threshold, policy), 3 + threshold, compute))
  return rows


def measure(model, policy, task=None):
  """The speed of a model with the chosen point at 0.4 everywhere."""
  num = model.grid.num_readouts
  best = point((0.4,) * (num - 1) + (NEVER,), policy)
  fraction = (0.25, 0.5) + (0.0,) * (num - 3) + (0.25,)
  return clock.measure(
    sweeps.spec(
      speed_tokens=LENGTH * WINDOWS, policies=(policy,), policy=policy
    ),
    model,
    tiny.params(model),
    task or sweeps.task(test=97),
    chosen(best, exit_fraction=fraction),
    sweep_of(policy),
  )


def test_the_clock_runs_on_points_spread_over_the_sweep():
  speed = measure(tiny.body(**SHAPES['stack']), 'copy_state')
  json.dumps(speed.to_json(), allow_nan=False)
  assert speed.tokens == LENGTH * WINDOWS

  off, best, *others, never = speed.points
  assert off.point is None
  assert best.point.threshold == (0.4, 0.4, NEVER)
  assert [p.point.threshold for p in others] == [0.05, 0.2, 0.5, 0.6]
  assert [p.chosen for p in speed.points] == [False, True, *[False] * 5]

  assert [p.ppl for p in speed.points[:3]] == pytest.approx([3.0, 3.3, 3.05])
  assert best.ppl_vs_full == pytest.approx(1.1)
  assert off.speedup == off.expected_speedup == 1
  # R21: exits that are compiled in and never taken, beside those that are not.
  assert never.ppl == off.ppl
  assert never.expected_speedup < 1
  for p in speed.points:
    assert 0 < p.tokens_per_second_low
    assert p.tokens_per_second_low <= p.tokens_per_second
    assert p.tokens_per_second <= p.tokens_per_second_high


@pytest.mark.parametrize(
  'body, policy',
  [
    ('stack', 'copy_state'),
    ('stack', 'recompute'),
    ('near', 'recompute'),
    ('refine', 'latest'),
    ('mor', 'recompute'),
  ],
)
def test_every_token_stops_where_the_evaluation_has_it_stop(body, policy):
  model = tiny.body(**SHAPES[body])
  params = tiny.params(model)
  num = model.grid.num_readouts
  tokens = sweeps.task(test=97).corpus.splits['test'][:-1].reshape(-1, LENGTH)
  windows = [window[None] for window in tokens]
  batch = {
    'tokens': tokens,
    'targets': tokens,
    'mask': np.ones(tokens.shape, np.float32),
  }
  exits = []

  for threshold in (0.05, 0.2, 0.5):
    at = point(threshold, policy)
    exit_RxT = clock.decoding(model, params, windows, at)().exit_RxT
    masked = passes.masked_pass(
      params,
      batch,
      jnp.asarray(at.threshold_K(num)),
      model=model,
      rule=at.rule,
    )
    np.testing.assert_array_equal(exit_RxT, masked.exit_BxT)
    exits.append(exit_RxT)
  assert len(np.unique(exits)) > 1

  exit_RxT = clock.decoding(model, params, windows, None)().exit_RxT
  assert (exit_RxT == num - 1).all()


@pytest.mark.parametrize('policy', ['copy_state', 'recompute'])
def test_what_the_decoder_makes_up_is_no_saving(policy):
  model = tiny.body(**SHAPES['stack'])
  # All of the split is decoded.
  task = sweeps.task(test=LENGTH * WINDOWS + 1)
  speed = measure(model, policy, task)
  tokens = task.corpus.splits['test'][:-1].reshape(WINDOWS, 1, LENGTH)
  prices = model.costs(CONTEXT)

  *points, never = speed.points[1:]
  assert never.expected_speedup < 1  # whatever the policy
  for p in points:
    run = clock.decoding(model, tiny.params(model), tokens, p.point)
    exit_RxT = run().exit_RxT
    active_K = p.point.threshold_K(model.grid.num_readouts) < np.inf
    cost_K = prices.exit_K(p.point.rule, active_K)
    uncharged = prices.full / cost_K[exit_RxT].mean()
    if policy == 'recompute':
      assert p.expected_speedup < uncharged
    else:
      assert p.expected_speedup == pytest.approx(uncharged)


def break_even(at):
  model = tiny.body(**SHAPES['stack'])
  return model, clock.break_even(model, chosen(at), LENGTH)


def test_a_head_must_stop_enough_tokens_to_pay():
  model, (first, second) = break_even(point((0.4, NEVER, NEVER)))
  prices = model.costs(CONTEXT)
  cell = prices.cell_L[0]
  # A token that stops at layer 1 is spared three layers, less their keys and
  # values, and the last head; one that goes on has paid a head for nothing.
  spared = 3 * (cell - prices.fill_L[0]) + prices.head
  assert first.needed == pytest.approx(prices.head / spared)
  spared = 2 * (cell - prices.fill_L[0]) + prices.head
  assert second.needed == pytest.approx(prices.head / spared)

  assert (first.stopped, second.stopped) == (0.25, 0.5 / 0.75)
  assert (first.active, second.active) == (True, False)
  assert (second.segment, second.layer) == (1, 2)


def test_a_cosine_pays_sooner_than_a_head():
  at = point((0.4, NEVER, NEVER), signal='state_cosine')
  model, (first, _) = break_even(at)
  prices = model.costs(CONTEXT)
  # It costs 6 D; its head comes when it has answered.
  spared = 3 * (prices.cell_L[0] - prices.fill_L[0])
  assert first.needed == pytest.approx(6 * model.cfg.dim / spared)


def test_candidates_pay_sooner_than_a_head_where_they_are_named():
  at = point((0.4, NEVER, NEVER), signal='shortlist')
  model, (first, second) = break_even(at)
  prices = model.costs(CONTEXT)
  saved = prices.cell_L[0] - prices.fill_L[0]
  # The first readout pays a head, which answers; the second one candidates.
  assert first.needed == pytest.approx(prices.head / (3 * saved + prices.head))
  asked = 2 * model.cfg.dim * shortlist.CANDIDATES
  assert second.needed == pytest.approx(asked / (2 * saved))


@pytest.mark.parametrize('at', [None, point((0.4,) * 3, 'recompute')])
def test_nothing_pays_where_no_stop_saves_flops(at):
  _, rows = break_even(at)
  assert not rows


def test_nothing_is_timed_unless_asked():
  model = tiny.body(**SHAPES['stack'])
  task = sweeps.task(test=97)
  spec = sweeps.spec(speed_tokens=0)
  assert clock.measure(spec, model, {}, task, chosen(None), []) is None


def test_a_split_shorter_than_a_window_cannot_be_timed():
  model = tiny.body(**SHAPES['stack'])
  task = sweeps.task(seq_len=100, test=97)
  with pytest.raises(ConfigError) as error:
    clock.measure(SPEC, model, {}, task, chosen(None), [])
  assert str(error.value) == (
    'the test split has 97 tokens, less than a window of data.seq_len=100 '
    'to time; set evaluate.speed_tokens=0'
  )


def test_the_median_of_five_rounds_or_more_is_reported_with_its_quartiles(
  monkeypatch,
):
  """R21."""
  assert clock.ROUNDS >= 5
  seconds = [8.0, 2.0, 4.0, 1.0, 16.0]

  def slower_and_slower(runs):
    return [
      clock.Timed([s * (1 + n) for s in seconds], run())
      for n, run in enumerate(runs)
    ]

  monkeypatch.setattr(clock, 'timed', slower_and_slower)
  speed = measure(tiny.body(**SHAPES['stack']), 'copy_state')
  assert speed.rounds == clock.ROUNDS
  for n, at in enumerate(speed.points):
    assert at.tokens_per_second == speed.tokens / (4 * (1 + n))
    assert at.tokens_per_second_low == speed.tokens / (12 * (1 + n))
    assert at.tokens_per_second_high == speed.tokens / (1.5 * (1 + n))
    assert at.speedup == pytest.approx(1 / (1 + n))


def test_all_runs_take_turns():
  ran = []

  def run(name):
    ran.append(name)
    return name

  ticks = itertools.count()
  first, second = clock.timed(
    [lambda: run('a'), lambda: run('b')], now=lambda: next(ticks)
  )
  assert ran == ['a', 'b'] * (1 + clock.ROUNDS)  # the first ones warm up
  assert first.value == 'a'
  assert second.seconds == [1] * clock.ROUNDS


def test_the_fastest_way_to_draft_is_the_one_that_took_least(monkeypatch):
  model = tiny.body(**SHAPES['stack'])
  drafts = [decode.Draft(0, 2), decode.Draft(1, 3)]
  medians = (5, 3, 4)

  def run_once(runs):
    assert len(runs) == 1 + len(drafts)
    return [
      clock.Timed([1, median, 9], run()) for run, median in zip(runs, medians)
    ]

  monkeypatch.setattr(clock, 'timed', run_once)
  best, seconds = clock.fastest_draft(
    model,
    {'params': tiny.params(model)},
    [[1, 2], [3]],
    drafts,
    options=decode.Options(max_new_tokens=3, context=LENGTH),
  )
  assert best == drafts[0]
  assert seconds == {None: 5, drafts[0]: 3, drafts[1]: 4}


def test_drafts_are_timed_on_the_beginnings_of_windows():
  task = sweeps.task(select=200)
  prompts = clock.calibration_prompts(SPEC, task)
  assert len(prompts) == clock.CALIBRATION
  assert prompts[0] == task.corpus.splits['select'][: LENGTH // 4].tolist()
