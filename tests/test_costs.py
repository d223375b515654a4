import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from ease_jax.core import context as contexts
from ease_jax.core import costs
from ease_jax.core.policies import OperatingPoint
from ease_jax.model import attention as attention_lib
from ease_jax.model import layers
from ease_jax.model.sight import Sight

ROWS, LENGTH = 2, 64


def xla_flops(function, *args):
  """XLA's own count, per token."""
  compiled = jax.jit(function).lower(*args).compile()
  return compiled.cost_analysis()['flops'] / (ROWS * LENGTH)


@pytest.fixture(
  scope='module',
  # The last one's heads are twice as wide as the model.
  params=[
    ('gelu', 4, 0),
    ('gelu', 1, 0),
    ('swiglu', 4, 0),
    ('swiglu', 2, 0),
    ('geglu', 2, 32),
  ],
  ids=lambda p: f'{p[0]}-{p[1]}kv',
)
def cell(request):
  mlp, kv_heads, head_dim = request.param
  m = tiny.model_config(
    96,
    dim=64,
    mlp_dim=256,
    mlp=mlp,
    num_kv_heads=kv_heads,
    head_dim=head_dim,
  )
  block = layers.Block(m, m.num_layers)
  h = jnp.ones((ROWS, LENGTH, m.dim))
  position = attention_lib.rotation(m, jnp.arange(LENGTH)[None])
  sight = Sight('causal', 0, jnp.arange(LENGTH)[None])
  args = h, sight, position
  variables = jax.eval_shape(block.init, jax.random.key(0), *args)
  return m, block, variables, args


def test_a_cell_is_within_ten_percent_of_xla(cell):
  m, block, variables, args = cell
  # The parallel program multiplies all T keys and masks some of them.
  assert costs.block_flops(m, LENGTH) == pytest.approx(
    xla_flops(block.apply, variables, *args), rel=0.1
  )


def test_a_kv_fill_is_within_ten_percent_of_xla(cell):
  m, block, variables, (h, _, position) = cell

  def project(kernel, h):
    return h.reshape(-1, m.dim) @ kernel

  params = variables['params']
  both = sum(
    xla_flops(project, params[name]['kernel'], h) for name in ('key', 'value')
  )
  assert costs.kv_flops(m) == pytest.approx(both, rel=0.1)
  if m.num_kv_heads == m.block.attention.num_heads:
    # With its norm and rotation, where the projection is not tiny.

    def kv(v, h, p):
      return block.apply(v, h, p, method='kv')

    assert costs.kv_flops(m) == pytest.approx(
      xla_flops(kv, variables, h, position), rel=0.1
    )


def test_a_head_is_within_ten_percent_of_xla(cell):
  m, _, _, (h, *_) = cell

  def logits(w, h):
    return jax.nn.logsumexp(h @ w.T, -1)

  w = jnp.ones((m.vocab_size, m.dim))
  assert costs.head_flops(m) == pytest.approx(xla_flops(logits, w, h), rel=0.1)


MODEL = tiny.stack(readouts=(1, 2, 4))
M = MODEL.cfg
CONTEXT = 6.5
PRICES = MODEL.costs(CONTEXT)
CELL = costs.block_flops(M, CONTEXT)
HEAD = costs.head_flops(M)
FILL = costs.kv_flops(M)
LAYERS = np.asarray([1, 2, 4])


def exit_costs(policy, signal='max_prob', active=None, prices=PRICES):
  rule = OperatingPoint(signal, policy, 0.5).rule
  return prices.exit_K(rule, active)


def test_hand_computed_pieces():
  # D=16, H=4, 2 K/V heads of 4, F=32, gelu, V=23.
  assert contexts.mean_context(12) == 6.5
  assert contexts.mean_context(12, 'full') == 12


@pytest.mark.parametrize('before', [0, 5])
def test_a_layer_that_sees_the_last_tokens_pays_for_those(before):
  """Every token's keys counted one by one."""
  length, window = 12, 4
  model = tiny.stack(global_every=2, window=window)
  seen_T = [before + t + 1 for t in range(length)]
  everywhere = np.mean(seen_T)
  near = np.mean([min(keys, window) for keys in seen_T])

  prices = model.costs(contexts.seen(model.cfg, length, before))
  expected = [
    costs.block_flops(model.cfg, keys)
    for keys in (near, everywhere, near, everywhere)
  ]
  np.testing.assert_allclose(prices.block_L, expected)
  np.testing.assert_array_equal(prices.trained_L, prices.block_L)
  # What multiplies and masks all of them pays for all.
  whole_L = model.costs(float(everywhere)).block_L
  np.testing.assert_allclose(whole_L, expected[1])


def test_a_window_as_long_as_the_context_costs_what_none_does():
  plain = tiny.stack().costs_of_windows(12)
  far = tiny.stack(window=12).costs_of_windows(12)
  np.testing.assert_array_equal(plain.block_L, far.block_L)
  assert FILL == 2 * 16 * (8 + 8)
  assert HEAD == 2 * 16 * 23
  assert CELL == 2 * (2 * 16 * 16) + FILL + 2 * (2 * 16 * 32) + 4 * 6.5 * 16
  assert PRICES.full == 4 * CELL + HEAD
  assert PRICES.relative(PRICES.full) == 1


def test_layers_heads_and_fill():
  plain = LAYERS * CELL + np.asarray([1, 2, 3]) * HEAD
  np.testing.assert_array_equal(exit_costs('drop'), plain)
  np.testing.assert_array_equal(exit_costs('recompute'), plain)
  fills = np.asarray([3, 2, 0]) * FILL
  np.testing.assert_array_equal(exit_costs('copy_state'), plain + fills)


def test_a_pruned_readout_costs_no_head():
  cost_K = exit_costs('drop', active=[False, True, False])
  assert cost_K[1] == 2 * CELL + HEAD
  assert cost_K[2] == 4 * CELL + 2 * HEAD
  off_K = exit_costs('copy_state', active=[False, False, False])
  assert off_K[2] == PRICES.full


@pytest.mark.parametrize('signal', ['kl', 'patience'])
def test_a_signal_with_memory_needs_every_earlier_head(signal):
  cost_K = exit_costs('drop', signal, [False, True, False])
  assert cost_K[1] == 2 * CELL + 2 * HEAD
  assert cost_K[2] == 4 * CELL + 3 * HEAD
  # Nothing deeper than the last active readout.
  cost_K = exit_costs('drop', signal, [True, False, False])
  assert cost_K[2] == 4 * CELL + 2 * HEAD
  off_K = exit_costs('drop', signal, [False] * 3)
  assert off_K[2] == PRICES.full


def test_a_cosine_needs_only_the_head_that_answers():
  cost_K = exit_costs('drop', 'state_cosine')
  extra_K = cost_K - LAYERS * CELL - HEAD
  asked_K = np.asarray([1, 2, 2]) * 6 * M.dim
  np.testing.assert_array_equal(extra_K, asked_K)
  off_K = exit_costs('drop', 'state_cosine', [False] * 3)
  assert off_K[2] == PRICES.full


@pytest.mark.parametrize('policy', ['drop', 'copy_state', 'recompute'])
def test_costs_increase_with_depth(policy):
  assert (np.diff(exit_costs(policy)) > 0).all()


def test_static_costs_are_those_of_a_cut_off_model():
  np.testing.assert_array_equal(PRICES.static_K, LAYERS * CELL + HEAD)


def test_deferred_layers():
  expected = [
    [0, FILL, 2 * CELL + FILL],
    [0, 0, CELL + FILL],
    [0, 0, 0],
  ]
  np.testing.assert_array_equal(PRICES.deferred_KxK, expected)


def test_what_a_router_spares_is_the_cells_before_the_exit():
  prices = MODEL.costs(CONTEXT)
  routed = dataclasses.replace(prices.grid.segment[1], router='any')
  segment = (prices.grid.segment[0], routed, *prices.grid.segment[2:])
  prices = dataclasses.replace(
    prices, grid=dataclasses.replace(prices.grid, segment=segment)
  )
  run_LxN = np.asarray([[1, 1, 1], [0, 0, 1], [0, 0, 0], [1, 1, 1]], bool)
  exit_N = np.asarray([0, 2, 2])  # the first token never came to cell 1
  spared_KxN = prices.spared_KxN(run_LxN)
  assert [spared_KxN[k, i] for i, k in enumerate(exit_N)] == [0, CELL, 0]


def test_training_is_three_forward_passes():
  flops = PRICES.train_per_token([0.5, 0.0, 1.0])
  assert flops == 3 * (4 * CELL + 1.5 * HEAD)
  asked = PRICES.train_per_token([0.0, 0.0, 1.0], [1.0, 1.0, 0.0])
  assert asked == 3 * (4 * CELL + HEAD) + 2 * HEAD


# ------------------------------------------------------------ segments


def refine(**changes):
  return tiny.body(body='refine', segments=3, readouts=(2, 4), **changes)


def test_readouts_of_segments_are_in_order_of_depth():
  model = refine()
  grid = model.grid
  assert grid.names_K == ((1, 2), (1, 4), (2, 2), (2, 4), (3, 2), (3, 4))
  assert grid.depth_K == (2, 4, 6, 8, 10, 12)
  assert grid.depth == 12
  prices = model.costs(CONTEXT)
  assert prices.full == 12 * CELL + HEAD
  np.testing.assert_array_equal(
    prices.static_K, np.asarray(grid.depth_K) * CELL + HEAD
  )


@pytest.mark.parametrize(
  'policy, layers_K',
  [
    ('copy_state', [10, 8, 6, 4, 2, 0]),
    ('latest', [2, 0, 0, 0, 0, 0]),  # each layer ran in segment 1, but two
    ('drop', [0] * 6),
    ('recompute', [0] * 6),
    ('copy_kv', [0] * 6),
  ],
)
def test_what_a_policy_fills_in_segments(policy, layers_K):
  model = refine()
  prices = model.costs(CONTEXT)
  fills_K = OperatingPoint('margin', policy, 0.5).rule.policy.fills(model.grid)
  np.testing.assert_array_equal(fills_K, layers_K)
  plain_K = exit_costs('drop', prices=prices)
  np.testing.assert_allclose(
    exit_costs(policy, prices=prices), plain_K + FILL * np.asarray(layers_K)
  )


@pytest.mark.parametrize(
  'inject, products', [('add', 0), ('concat', 2), ('gate', 2), ('decay', 1)]
)
def test_a_projected_state_is_charged_in_each_segment(inject, products):
  model = refine(inject=inject)
  prices = model.costs(CONTEXT)
  extra = 2 * products * M.dim**2
  assert prices.full == 12 * CELL + 3 * extra + HEAD
  assert prices.train_per_token([0] * 5 + [1]) == pytest.approx(
    3 * (12 * CELL + 3 * extra + HEAD)
  )
  if products:
    x = jnp.ones((ROWS * LENGTH, products * M.dim))
    w = jnp.ones((products * M.dim, M.dim))
    assert extra == pytest.approx(xla_flops(jnp.matmul, x, w), rel=0.1)


def test_hrm_counts_every_call_forward_and_the_last_ones_backward():
  model = tiny.hrm(num_layers=2, cycles=2, cycle_steps=3)
  prices = model.costs(CONTEXT)
  assert model.grid.names_K == ((1, 16), (2, 16), (3, 16))
  assert model.grid.depth_K == (16, 32, 48)  # 2 x (3 low + 1 high) x 2 layers
  forward = 48 * CELL
  backward = 3 * 2 * (2 + 2) * CELL
  plain = prices.train_per_token([1, 1, 1])
  assert plain == pytest.approx(forward + backward + 3 * 3 * HEAD)
  # The values of the next segment are a second forward pass.
  ahead = prices.train_per_token([1, 1, 1], ahead=True)
  assert ahead == pytest.approx(2 * forward + backward + 3 * 3 * HEAD)


def test_the_value_of_stopping_needs_no_head():
  model = tiny.hrm(num_layers=2)
  cost_K = exit_costs('drop', 'q_halt', prices=model.costs(CONTEXT))
  extra_K = cost_K - np.asarray(model.grid.depth_K) * CELL - HEAD
  asked_K = np.asarray([1, 2, 2]) * 4 * M.dim
  np.testing.assert_array_equal(extra_K, asked_K)
