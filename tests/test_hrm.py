"""HRM's one-step gradient; its recurrence is in test_equations.py."""

import jax
import numpy as np
import pytest
import segmented
from segmented import BATCH, LENGTH, gradient, key_of

import tiny
from ease_jax.core.objective import LossSpec
from ease_jax.model.attention import positions
from ease_jax.model.sight import Sight


@pytest.mark.parametrize('backprop', [1, 2, 4, 6])
def test_only_the_last_updates_learn(backprop):
  """Earlier calls are constants to them; with all of them, nothing is."""
  model = tiny.hrm(
    segments=1, cycles=2, cycle_steps=2, gates=(), backprop=backprop
  )
  params = tiny.params(model)
  grads, _ = gradient(params, model, LossSpec((1.0,)), BATCH)

  def last_steps(params):
    bound = model.bind({'params': params})
    start = bound.start(BATCH['tokens'], positions(LENGTH), key_of())
    low = start['low']
    high = start['high']
    x = start['x']
    sight = Sight('causal', 0, np.arange(LENGTH)[None])
    rotation = segmented.rotation_of(model)

    for number in range(6):
      if number % 3 == 2:
        new = high = bound.layer_1(high + low, sight, rotation)
      else:
        new = low = bound.layer_0(low + high + x, sight, rotation)
      if number < 6 - backprop:
        new = jax.lax.stop_gradient(new)
      if number % 3 == 2:
        high = new
      else:
        low = new
    return segmented.mean_nll(bound, 0, high, BATCH)

  expected = jax.jit(jax.grad(last_steps))(params)
  tiny.assert_trees_close(grads, expected, rtol=1e-4, atol=1e-5)


def test_one_network_may_update_both_states():
  """TRM: the same values as two networks with the same weights."""
  one = tiny.hrm(cycles=2, shared=True, gates=())
  two = tiny.hrm(cycles=2, gates=())
  params = tiny.params(one)
  assert 'layer_1' not in params
  copied = params | {'layer_1': params['layer_0']}
  tokens = BATCH['tokens']
  np.testing.assert_array_equal(
    tiny.logits(params, tokens, model=one),
    tiny.logits(copied, tokens, model=two),
  )


def test_the_high_state_may_start_as_the_input():
  """HRM-Text: which no update reads besides."""
  model = tiny.hrm(carry_init='input', carry_norm=True, backprop=4, gates=())
  bound = model.bind({'params': tiny.params(model)})
  tokens = BATCH['tokens']
  place_1xT = positions(LENGTH)
  state = bound.start(tokens, place_1xT)
  embedded_BxTxD = bound.embed_tokens(tokens, place_1xT)
  np.testing.assert_array_equal(state['high'], embedded_BxTxD)
  assert (state['low'] == state['low'][:1, :1]).all()
  assert {name for cell in model.grid.cells for name in cell.reads} == {
    'low',
    'high',
  }
  read = bound.combine(model.grid.cells[0], state, 0)
  bigger = state | {'high': 7 * state['high']}
  same = bound.combine(model.grid.cells[0], bigger, 0)
  np.testing.assert_allclose(same, read, rtol=1e-4, atol=1e-4)


def test_gates_do_not_change_what_the_states_learn():
  """The loss of halting has no gradient into the states' targets."""
  plain = tiny.hrm(cycles=1, gates=())
  gated = segmented.HRM
  params = dict(tiny.params(gated))
  gate = params.pop('gate_q_halt')
  spec = LossSpec((1.0, 1.0, 1.0), segments=3)
  expected, _ = gradient(params, plain, spec, BATCH)
  grads, metrics = gradient(params | {'gate_q_halt': gate}, gated, spec, BATCH)
  assert 'loss_q_halt' not in metrics
  grads = dict(grads)
  assert (np.asarray(grads.pop('gate_q_halt')['kernel']) == 0).all()
  tiny.assert_trees_close(grads, expected, rtol=1e-5, atol=1e-6)
