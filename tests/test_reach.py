"""How far back gradients go in an update: a schedule, a body, a price."""

import dataclasses

import jax
import numpy as np
import pytest
import segmented
import training
from segmented import BATCH, LENGTH, gradient, key_of

import tiny
from ease_jax import presets
from ease_jax.core.objective import LossSpec
from ease_jax.core.reach import grown
from ease_jax.model import with_reach
from ease_jax.model.attention import positions
from ease_jax.model.sight import Sight
from ease_jax.train.stages import plan, planned

SEGMENTS = 4


def growing(full, first=1, share=0.5, steps=8):
  """A config of four runs of one layer; few of them learn at first."""
  c = training.make_plain_config(
    steps=steps,
    backprop='growing',
    backprop_first=first,
    backprop_share=share,
  )
  tiny.update_model(
    c.model,
    body='refine',
    segments=SEGMENTS,
    num_layers=1,
    carry_backprop=full,
  )
  return c


def always(c, full):
  """The same where gradients always go so far."""
  c = c.copy_and_resolve_references()
  c.train.backprop = 'constant'
  c.train.backprop_first = 1
  c.train.backprop_share = 0.2
  c.model.carry_backprop = full
  return training.make_specs(c)


def stages(run_specs):
  """What each update of a run differentiates."""
  train, model, loss = run_specs.train, run_specs.body, run_specs.loss
  plans = [plan(train, model, step, 0) for step in range(train.steps)]
  return [planned(model, loss, now) for now in plans]


def test_hrm_text_begins_with_two_updates_and_ends_with_five():
  """2 + floor(min(1, t / 0.2 T) 3), counted by hand for T = 20 and 30."""
  c = presets.hrm_text(training.make_plain_config(steps=20), num_layers=1)
  spec = training.make_specs(c)
  reach = [plan(spec.train, spec.body, step, 0).reach for step in range(20)]
  assert reach == [2, 2, 3, 4] + 16 * [5]
  assert [grown(step, 2, 5, 6.0) for step in range(7)] == [2, 2, 3, 3, 4, 4, 5]


@pytest.mark.parametrize('full', [1, 3, 7])
@pytest.mark.parametrize('length', [0.5, 3.0, 12.5])
def test_a_reach_grows_from_the_first_to_all(full, length):
  reach = [grown(step, 1, full, length) for step in range(20)]
  assert reach == sorted(reach)
  assert (reach[0], reach[-1]) == (1, full)
  full_from = int(np.ceil(length))
  assert set(reach[full_from:]) == {full}
  assert full == 1 or full not in reach[:full_from]


def test_updates_of_the_high_state_learn_first():
  """HRM-Text's order: L L L H L L L H, at least one of the low state."""
  c = presets.hrm_text(training.make_plain_config(), num_layers=1)
  options = training.make_specs(c).model.options
  learns = {
    reached: dataclasses.replace(options, reached=reached).learns_N
    for reached in (1, 2, 3, 4, 5)
  }
  places = {n: [i for i in range(8) if x[i]] for n, x in learns.items()}
  assert places == {
    1: [7],
    2: [6, 7],
    3: [3, 6, 7],
    4: [3, 5, 6, 7],
    5: [3, 4, 5, 6, 7],
  }
  assert options.learns_N == learns[5]


def test_gradients_reach_the_updates_that_learn():
  """Against a plain loop: two of the high state, one of the low one."""
  model = tiny.hrm(
    segments=1, cycles=2, cycle_steps=2, gates=(), backprop=4, carry_norm=False
  )
  params = tiny.params(model)
  grads, _ = gradient(params, with_reach(model, 3), LossSpec((1.0,)), BATCH)

  def loss(params):
    bound = model.bind({'params': params})
    start = bound.start(BATCH['tokens'], positions(LENGTH), key_of())
    low, high, x = start['low'], start['high'], start['x']
    sight = Sight('causal', 0, np.arange(LENGTH)[None])
    rotation = segmented.rotation_of(model)
    stop = jax.lax.stop_gradient
    for cycle in range(2):
      for last in (False, True):
        low = bound.layer_0(low + high + x, sight, rotation)
        low = low if last and cycle == 1 else stop(low)
      high = bound.layer_1(high + low, sight, rotation)
    return segmented.mean_nll(bound, 0, high, BATCH)

  expected = jax.jit(jax.grad(loss))(params)
  tiny.assert_trees_close(grads, expected, rtol=1e-4, atol=1e-5)


def test_a_reach_that_is_full_at_once_is_the_constant_one():
  """The same static arguments, so the same program and the same bits."""
  c = growing(full=3, first=3)
  assert stages(training.make_specs(c)) == stages(always(c, 3))


def test_an_update_is_that_of_a_model_whose_gradients_go_so_far():
  c = growing(full=3)
  seen = stages(training.make_specs(c))
  for step, full in enumerate([1, 1, 2, 2, 3, 3, 3, 3]):
    alone = stages(always(c, full))[step]
    assert seen[step] == alone
    assert alone.before == SEGMENTS - full  # run, and learn nothing
  assert len(set(seen)) == 3  # a program for each number


def test_training_costs_what_each_step_reaches():
  """The mean over the steps, for runs and for updates of a state."""
  c = growing(full=3)
  price = training.make_specs(c).train_flops
  flops = [always(c, full).train_flops for full in (1, 2, 3)]
  assert price == pytest.approx(
    (2 * flops[0] + 2 * flops[1] + 4 * flops[2]) / 8
  )
  assert flops[0] < price < flops[2]

  c = presets.hrm_text(training.make_plain_config(steps=20), num_layers=1)
  warm = training.make_specs(c)
  c.train.backprop = 'constant'
  c.train.backprop_first = 1
  full = training.make_specs(c)
  cell = full.body.costs(c.data.seq_len).cell_L[0]
  spared = (2 * 3 + 2 + 1) / 20  # updates of one layer that learn later
  saved = full.train_flops - warm.train_flops
  assert saved == pytest.approx(spared * 2 * cell)
