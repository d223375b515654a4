import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from ease_jax.core import costs
from ease_jax.model import layers

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
  m = tiny.model_config(96, dim=64, mlp_dim=256, mlp=mlp, num_kv_heads=kv_heads)
  block = layers.Block(m)
  h = jnp.ones((ROWS, LENGTH, m.dim))
  position = layers.rotation(m, jnp.arange(LENGTH)[None])
  mask = layers.causal_mask(LENGTH)
  args = h, mask, position
  variables = jax.eval_shape(block.init, jax.random.key(0), *args)
  return m, block, variables, args


def test_a_cell_is_within_ten_percent_of_xla(cell):
  m, block, variables, args = cell
  # The parallel program multiplies all T keys and masks some of them.
  assert costs.cell_flops(m, LENGTH) == pytest.approx(
    xla_flops(block.apply, variables, *args), rel=0.1
  )


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
      xla_flops(kv, variables, h, position), rel=0.1
    )


def test_a_head_is_within_ten_percent_of_xla(cell):
  m, _, _, (h, *_) = cell
  logits = lambda w, h: jax.nn.logsumexp(h @ w.T, -1)
  w = jnp.ones((m.vocab_size, m.dim))
  assert costs.head_flops(m) == pytest.approx(xla_flops(logits, w, h), rel=0.1)


M = tiny.model_config(readouts=(1, 2, 4))
CONTEXT = 6.5
CELL, HEAD, FILL = (
  costs.cell_flops(M, CONTEXT),
  costs.head_flops(M),
  costs.kv_flops(M),
)
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
    readout_costs('copy_state'), plain + np.asarray([3, 2, 0]) * FILL
  )


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
    costs.static_costs(M, CONTEXT), LAYERS * CELL + HEAD
  )


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


# ------------------------------------------------------------ segments


def refine(**changes):
  return tiny.model_config(
    body='refine', segments=3, readouts=(2, 4), **changes
  )


def test_readouts_of_segments_are_in_order_of_depth():
  m = refine()
  assert m.cells == ((1, 2), (1, 4), (2, 2), (2, 4), (3, 2), (3, 4))
  assert m.depth_K == (2, 4, 6, 8, 10, 12) and m.depth == 12
  full = costs.full_flops(m, CONTEXT)
  assert full == 12 * CELL + HEAD
  np.testing.assert_array_equal(
    costs.static_costs(m, CONTEXT), np.asarray(m.depth_K) * CELL + HEAD
  )


def test_what_a_policy_fills_in_segments():
  m = refine()
  expected = {
    'copy_state': [10, 8, 6, 4, 2, 0],
    'latest': [2, 0, 0, 0, 0, 0],  # each layer ran in segment 1, but two
    'drop': [0] * 6,
    'recompute': [0] * 6,
  }
  for policy, layers_K in expected.items():
    np.testing.assert_array_equal(costs.filled_layers(m, policy), layers_K)
    plain_K = costs.readout_costs(m, CONTEXT, 'drop')
    np.testing.assert_allclose(
      costs.readout_costs(m, CONTEXT, policy),
      plain_K + FILL * np.asarray(layers_K),
    )


@pytest.mark.parametrize(
  'inject, products', [('add', 0), ('concat', 2), ('gate', 2)]
)
def test_a_projected_state_is_charged_in_each_segment(inject, products):
  m = refine(carry_inject=inject)
  extra = 2 * products * m.dim**2
  assert costs.full_flops(m, CONTEXT) == 12 * CELL + 3 * extra + HEAD
  assert costs.train_flops_per_token(m, [0] * 5 + [1], 12) == pytest.approx(
    3 * (12 * CELL + 3 * extra + HEAD)
  )
  if products:
    product = lambda x, w: x @ w
    x = jnp.ones((ROWS * LENGTH, 2 * m.dim))
    assert extra == pytest.approx(
      xla_flops(product, x, jnp.ones((2 * m.dim, m.dim))), rel=0.1
    )


def test_hrm_counts_every_call_forward_and_the_last_ones_backward():
  m = tiny.model_config(
    body='hrm', segments=3, num_layers=2, cycles=2, cycle_steps=3
  )
  assert m.cells == ((1, 2), (2, 2), (3, 2))
  assert m.depth_K == (16, 32, 48)  # 2 cycles x (3 low + 1 high) x 2 layers
  forward, backward = 48 * CELL, 3 * 2 * (2 + 2) * CELL
  flops = lambda **kw: costs.train_flops_per_token(m, [1, 1, 1], 12, **kw)
  assert flops() == pytest.approx(forward + backward + 3 * 3 * HEAD)
  # The values of the next segment are a second forward pass.
  assert flops(halting=True) == pytest.approx(
    2 * forward + backward + 3 * 3 * HEAD
  )


def test_the_value_of_stopping_needs_no_head():
  m = tiny.model_config(body='hrm', segments=3, num_layers=2)
  cost_K = costs.readout_costs(m, CONTEXT, 'drop', signal='q_halt')
  extra_K = cost_K - np.asarray(m.depth_K) * CELL - HEAD
  assert (extra_K > 0).all() and (extra_K < HEAD).all()
