"""The number of runs in an update: a schedule, a loss, a price."""

import jax
import numpy as np
import pytest
import training

import tiny
from ease_jax.core.distillation import TeachingSpec
from ease_jax.core.objective import LossSpec
from ease_jax.core.runs import GROWING, SCHEDULES, When
from ease_jax.model import with_segments
from ease_jax.train import loss as losses
from ease_jax.train.stages import stage

SEGMENTS = 4


def growing(runs, share=0.5, steps=8):
  """A config of four runs of one layer, of which fewer are run at first."""
  c = training.make_plain_config(steps=steps, runs=runs, runs_share=share)
  tiny.update_model(
    c.model, body='refine', segments=SEGMENTS, num_layers=1, carry_backprop=4
  )
  return c


def drawn(most, steps=8):
  """Of which some number is run."""
  c = growing('drawn', share=0.4, steps=steps)
  c.train.runs_most = most
  return c


def by_step(workdir):
  """What was written of each update."""
  rows = training.events(workdir)
  return {row['step']: row for row in rows if row['split'] == 'train'}


@pytest.mark.parametrize(
  'runs, by_hand',
  [
    ('late', [1, 1, 1, 1, 4, 4, 4, 4]),
    # 4 (1 - sqrt(1 - t / 4)) at t = 0, 1, 2, 3 is 0, 0.54, 1.17, 2.
    ('curriculum', [1, 1, 2, 2, 4, 4, 4, 4]),
  ],
)
def test_runs_are_those_of_the_schedule(runs, by_hand):
  spec = training.make_specs(growing(runs)).train
  assert [spec.runs_at(step, SEGMENTS, 0) for step in range(8)] == by_hand


def test_all_run_unless_a_config_says_otherwise():
  spec = training.small_specs().train
  assert {spec.runs_at(step, 3, 0) for step in range(spec.steps)} == {3}


@pytest.mark.parametrize('runs', GROWING)
@pytest.mark.parametrize('segments', [2, 7])
def test_a_growing_number_ends_at_all_of_them(runs, segments):
  counts = [
    SCHEDULES[runs](When(segments, place, segments, None))
    for place in np.linspace(0, 3, 50)
  ]
  assert counts[0] == 1
  assert counts == sorted(counts)
  assert counts[-1] == segments


def test_numbers_are_drawn_as_huginn_draws_them():
  """Mean S + 1 and the variance of a log-normal Poisson (2502.05171)."""
  spec = training.make_specs(drawn(most=9, steps=10_000)).train
  counts = [spec.runs_at(step, SEGMENTS, 3) for step in range(10_000)]
  assert np.mean(counts) == pytest.approx(1 + SEGMENTS, rel=0.02)
  variance = SEGMENTS + SEGMENTS**2 * np.expm1(0.25)
  assert np.var(counts) == pytest.approx(variance, rel=0.1)
  assert min(counts) == 1
  again = [spec.runs_at(step, SEGMENTS, 3) for step in range(100)]
  assert again == counts[:100]  # of the step alone, whatever was drawn before
  other = [spec.runs_at(step, SEGMENTS, 4) for step in range(100)]
  assert other != again


def test_no_more_are_drawn_than_the_most():
  spec = training.make_specs(drawn(most=1)).train
  counts = [spec.runs_at(step, SEGMENTS, 0) for step in range(200)]
  assert max(counts) == SEGMENTS
  assert min(counts) < SEGMENTS


@pytest.mark.parametrize(
  'num, inject',
  [(1, 'concat'), (2, 'concat'), (3, 'concat'), (6, 'concat'), (4, 'lanes')],
)
def test_runs_that_learn_nothing_change_no_gradient(num, inject):
  """As if all of them had been in the backward pass, and cut off there."""
  model = tiny.refine(
    segments=num,
    num_layers=1,
    carry_backprop=min(2, num),
    carry_init='input',
    inject=inject,
    prelude=1,
    coda=1,
  )
  params = tiny.params(model)
  spec = LossSpec(
    (0.0,) * (num - 1) + (1.0,), segments=num, carry_backprop=min(2, num)
  )
  batch = tiny.batch()
  key = jax.random.key(0)
  whole, _ = jax.grad(losses.grid_loss, has_aux=True)(
    params, model, spec, batch, 0, key
  )
  now = stage(model, spec, num)
  assert now.before == max(0, num - 2)
  assert now.loss.segments == min(2, num)
  grads, _ = losses.grid_gradient(
    params, now.model, now.loss, batch, 0, key, None, np.int32(now.before)
  )
  tiny.assert_trees_close(grads, whole, 1e-4, 1e-6)


def test_segments_that_something_is_learned_from_are_differentiated():
  ends = LossSpec((0.0, 1.0) * 3, segments=3)
  assert ends.unreached == 0
  last = LossSpec((0.0, 0.0, 0.0, 0.5, 0.0, 1.0), segments=3)
  assert last.unreached == 1
  joined = LossSpec((0.0,) * 5 + (1.0,), segments=3, carry_backprop=2)
  assert joined.unreached == 1
  stops = LossSpec((0.0, 0.0, 1.0), segments=3, exit_threshold=0.5)
  assert stops.unreached == 0
  rises = LossSpec(
    (0.0, 0.0, 0.5, 1.0), segments=2, schedule='gradual', schedule_steps=10
  )
  assert rises.unreached == 0
  own = TeachingSpec(target='distill')
  taught = LossSpec((0.0, 0.5, 1.0), segments=3, teaching=own)
  assert taught.unreached == 0


def test_a_loss_of_fewer_segments_is_that_of_the_last_ones():
  spec = LossSpec((0.0, 0.0, 0.25, 0.5, 0.0, 1.0), segments=3, carry_backprop=3)
  assert spec.of_segments(3) == spec
  two = spec.of_segments(2)
  assert two.weight_K == (0.25, 0.5, 0.0, 1.0)
  assert (two.segments, two.carry_backprop) == (2, 2)
  assert spec.of_segments(1).weight_K == (0.0, 1.0)


def test_training_costs_what_is_run():
  """The mean over the steps of what models of so many segments cost."""
  c = growing('late', share=0.25)
  price = training.make_specs(c).train_flops

  def always(segments):
    fixed = growing('late', share=0.25)
    fixed.train.runs = 'constant'
    fixed.train.runs_share = 0.4
    fixed.model.segments = segments
    fixed.model.carry_backprop = segments
    return training.make_specs(fixed).train_flops

  assert price == pytest.approx((2 * always(1) + 6 * always(4)) / 8)
  assert always(1) < price < always(4)


def test_a_run_that_learns_nothing_costs_a_third():
  """Forward alone, and no head."""
  c = growing('constant', share=0.4)
  prices = training.make_specs(c).body.costs(c.data.seq_len)
  flops = {}
  for joined in (1, 2, 4):
    c.model.carry_backprop = joined
    flops[joined] = training.make_specs(c).train_flops
  assert flops[4] - flops[2] == pytest.approx(2 * 2 * prices.segment)
  assert flops[4] - flops[1] == pytest.approx(3 * 2 * prices.segment)


def test_the_same_parameters_run_less_often():
  model = training.make_specs(growing('late')).body
  one = with_segments(model, 1)
  params = tiny.params(model)
  tiny.assert_trees_equal(params, tiny.params(one))
  assert with_segments(model, SEGMENTS) is model
  tokens = tiny.batch()['tokens']
  np.testing.assert_allclose(
    tiny.logits(params, tokens, model=one)[0],
    tiny.logits(params, tokens, model=model)[0],
    rtol=1e-5,
    atol=1e-5,
  )


def test_an_update_before_the_switch_is_that_of_a_model_of_one_run(tmp_path):
  """Bit for bit, as long as the schedule says."""
  late = growing('late', share=0.5, steps=4)
  run = training.run(training.make_specs(late), tmp_path / 'late')
  seen = by_step(tmp_path / 'late')
  assert [f'loss_{SEGMENTS}' in seen[step] for step in (1, 2, 3, 4)] == [
    False,
    False,
    True,
    True,
  ]

  once = growing('late', share=0.5, steps=4)
  once.train.runs = 'constant'
  once.train.runs_share = 0.4
  once.model.segments = 1
  once.model.carry_backprop = 1
  training.run(training.make_specs(once), tmp_path / 'once')
  single = by_step(tmp_path / 'once')
  for step in (1, 2):
    assert seen[step]['loss'] == single[step]['loss']
    assert seen[step]['param_norm'] == single[step]['param_norm']
  assert seen[4]['loss'] != single[4]['loss']
  assert run.step == 4
