import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from ease_jax import costs, layers

ROWS, LENGTH = 2, 64


def xla_flops(function, *args):
  """XLA's own count, per token."""
  compiled = jax.jit(function).lower(*args).compile()
  return compiled.cost_analysis()['flops'] / (ROWS * LENGTH)


@pytest.fixture(
    scope='module',
    params=[('gelu', 4), ('gelu', 1), ('swiglu', 4), ('swiglu', 2)],
    ids=lambda p: f'{p[0]}-{p[1]}kv',
)
def cell(request):
  mlp, kv_heads = request.param
  m = tiny.model_config(
      96, dim=64, mlp_dim=256, mlp=mlp, num_kv_heads=kv_heads)
  block = layers.Block(m)
  h = jnp.ones((ROWS, LENGTH, m.dim))
  position = layers.rotation(m, jnp.arange(LENGTH))
  mask = layers.causal_mask(LENGTH)
  args = h, mask, position
  variables = jax.eval_shape(block.init, jax.random.key(0), *args)
  return m, block, variables, args


def test_a_cell_is_within_ten_percent_of_xla(cell):
  m, block, variables, args = cell
  # The parallel program multiplies all T keys and masks some of them.
  assert costs.cell_flops(m, LENGTH) == pytest.approx(
      xla_flops(block.apply, variables, *args), rel=0.1)


def test_a_kv_fill_is_within_ten_percent_of_xla(cell):
  m, block, variables, (h, _, position) = cell
  project = lambda kernel, h: h.reshape(-1, m.dim) @ kernel
  params = variables['params']
  both = sum(
      xla_flops(project, params[name]['kernel'], h) for name in ('key', 'value')
  )
  assert costs.kv_flops(m) == pytest.approx(both, rel=0.1)
  if m.num_kv_heads == m.num_heads:
    # With its norm and rotation, where the projection is not tiny.
    kv = lambda v, h, p: block.apply(v, h, p, method='kv')
    assert costs.kv_flops(m) == pytest.approx(
        xla_flops(kv, variables, h, position), rel=0.1)


def test_a_head_is_within_ten_percent_of_xla(cell):
  m, _, _, (h, *_) = cell
  logits = lambda w, h: jax.nn.logsumexp(h @ w.T, -1)
  w = jnp.ones((m.vocab_size, m.dim))
  assert costs.head_flops(m) == pytest.approx(xla_flops(logits, w, h), rel=0.1)


M = tiny.model_config(readouts=(1, 2, 4))
CONTEXT = 6.5
CELL, HEAD, FILL = (
    costs.cell_flops(M, CONTEXT), costs.head_flops(M), costs.kv_flops(M))
LAYERS = np.asarray([1, 2, 4])


def readout_costs(policy, **options):
  return costs.readout_costs(M, CONTEXT, policy, **options)


def test_hand_computed_pieces():
  # D=16, H=4, 2 K/V heads of 4, F=32, gelu, V=23.
  assert costs.mean_context(12) == 6.5
  assert FILL == 2 * 16 * (8 + 8)
  assert HEAD == 2 * 16 * 23
  assert CELL == 2 * (2 * 16 * 16) + FILL + 2 * (2 * 16 * 32) + 4 * 6.5 * 16
  assert costs.full_flops(M, CONTEXT) == 4 * CELL + HEAD


def test_layers_heads_and_fill():
  plain = LAYERS * CELL + np.asarray([1, 2, 3]) * HEAD
  np.testing.assert_array_equal(readout_costs('drop'), plain)
  np.testing.assert_array_equal(readout_costs('recompute'), plain)
  np.testing.assert_array_equal(
      readout_costs('copy_state'), plain + np.asarray([3, 2, 0]) * FILL)


def test_a_pruned_readout_costs_no_head():
  cost_K = readout_costs('drop', active=[False, True, False])
  assert cost_K[1] == 2 * CELL + HEAD
  assert cost_K[2] == 4 * CELL + 2 * HEAD
  off_K = readout_costs('copy_state', active=[False, False, False])
  assert off_K[2] == costs.full_flops(M, CONTEXT)


@pytest.mark.parametrize('signal', costs.MEMORY_SIGNALS)
def test_a_signal_with_memory_needs_every_earlier_head(signal):
  cost_K = readout_costs('drop', signal=signal, active=[False, True, False])
  assert cost_K[1] == 2 * CELL + 2 * HEAD
  assert cost_K[2] == 4 * CELL + 3 * HEAD
  # Nothing deeper than the last active readout.
  cost_K = readout_costs('drop', signal=signal, active=[True, False, False])
  assert cost_K[2] == 4 * CELL + 2 * HEAD
  off_K = readout_costs('drop', signal=signal, active=[False] * 3)
  assert off_K[2] == costs.full_flops(M, CONTEXT)


def test_a_cosine_needs_only_the_head_that_answers():
  cost_K = readout_costs('drop', signal='state_cosine')
  extra_K = cost_K - LAYERS * CELL - HEAD
  assert (extra_K > 0).all() and (extra_K < HEAD).all()
  off_K = readout_costs('drop', signal='state_cosine', active=[False] * 3)
  assert off_K[2] == costs.full_flops(M, CONTEXT)


def test_costs_increase_with_depth():
  for policy in ('drop', 'copy_state', 'recompute'):
    assert (np.diff(readout_costs(policy)) > 0).all()


def test_static_costs_are_those_of_a_cut_off_model():
  np.testing.assert_array_equal(
      costs.static_costs(M, CONTEXT), LAYERS * CELL + HEAD)


def test_deferred_layers():
  expected = [
      [0, FILL, 2 * CELL + FILL],
      [0, 0, CELL + FILL],
      [0, 0, 0],
  ]
  np.testing.assert_array_equal(costs.deferred_flops(M, CONTEXT), expected)


def test_training_is_three_forward_passes():
  flops = costs.train_flops_per_token(M, [0.5, 0.0, 1.0], 12)
  assert flops == 3 * (4 * CELL + 1.5 * HEAD)
