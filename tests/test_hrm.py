"""HRM's one-step gradient; its recurrence is in test_equations.py."""

import jax
import numpy as np
import segmented
from segmented import BATCH, LENGTH, gradient, key_of

import tiny
from ease_jax.core.objective import LossSpec
from ease_jax.model.layers import positions


def test_only_the_last_update_of_each_state_learns():
  """Earlier calls are constants to it."""
  model = tiny.hrm(segments=1, cycles=2, cycle_steps=2, gates=())
  params = tiny.params(model)
  grads, _ = gradient(params, model, LossSpec((1.0,)), BATCH)

  def last_step(trained):
    fixed = model.bind({'params': params})
    bound = model.bind({'params': trained})
    tokens = BATCH['tokens']
    start = fixed.start(tokens, positions(LENGTH), key_of())
    low = start['low']
    high = start['high']
    x = start['x']
    mask = np.tri(LENGTH, dtype=bool)[None]
    rotation = segmented.rotation_of(model)

    low = fixed.layer_0(low + high + x, mask, rotation)
    low = fixed.layer_0(low + high + x, mask, rotation)
    high = fixed.layer_1(high + low, mask, rotation)
    low = fixed.layer_0(low + high + x, mask, rotation)
    low = bound.layer_0(low + high + bound.embed_tokens(tokens), mask, rotation)
    high = bound.layer_1(high + low, mask, rotation)
    return segmented.mean_nll(bound, 0, high, BATCH)

  expected = jax.jit(jax.grad(last_step))(params)
  tiny.assert_trees_close(grads, expected, rtol=1e-4, atol=1e-5)


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
