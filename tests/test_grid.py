import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ease_jax.core import grid

INF = np.inf


@pytest.fixture(params=['eager', 'jit'])
def first_exit(request):
  return jax.jit(grid.first_exit) if request.param == 'jit' else grid.first_exit


@pytest.fixture(scope='module')
def score_KxBxT():
  return np.random.default_rng(0).random((4, 5, 16)).astype(np.float32)


def full(value, num=4):
  return np.full(num, value, np.float32)


def test_a_grid_needs_one_weight_and_one_cost_per_cell_in_order():
  cells = ((1, 1), (1, 2))
  assert grid.ExitGrid(cells, (0.0, 1.0), (1.0, 2.0)).num_readouts == 2
  with pytest.raises(ValueError, match='2 cells, 1 weights and 2 costs'):
    grid.ExitGrid(cells, (1.0,), (1.0, 2.0))
  with pytest.raises(ValueError, match='in order of cost'):
    grid.ExitGrid(cells, (0.0, 1.0), (2.0, 1.0))


def test_plus_inf_is_never_even_on_a_probability_of_one(first_exit):
  score = np.ones((4, 2, 3), np.float32)
  score[1] = INF
  exit_BxT = first_exit(score, full(INF))
  chex.assert_shape(exit_BxT, (2, 3))
  assert exit_BxT.dtype == jnp.int32
  assert (np.asarray(exit_BxT) == 3).all()


def test_one_reaches_a_threshold_of_one_in_bfloat16(first_exit):
  score = jnp.ones((4, 2, 3), jnp.bfloat16)
  assert (np.asarray(first_exit(score, full(1.0))) == 0).all()
  assert (np.asarray(first_exit(score, full(INF))) == 3).all()


def test_minus_inf_is_the_first_readout_whatever_the_score(first_exit):
  score = np.full((4, 2, 3), -INF, np.float32)
  assert (np.asarray(first_exit(score, full(-INF))) == 0).all()
  assert (np.asarray(first_exit(score, full(-1e30))) == 3).all()


def test_the_last_threshold_is_ignored(first_exit, score_KxBxT):
  threshold = np.asarray([0.8, 0.6, 0.7, 0.0], np.float32)
  never = np.asarray([0.8, 0.6, 0.7, INF], np.float32)
  np.testing.assert_array_equal(
    first_exit(score_KxBxT, threshold), first_exit(score_KxBxT, never)
  )


def test_first_exit_is_the_first_score_at_or_above(first_exit, score_KxBxT):
  threshold = np.asarray([0.9, score_KxBxT[1, 2, 3], 0.5, INF], np.float32)
  expected = np.full((5, 16), 3)
  for b in range(5):
    for t in range(16):
      for k in range(3):
        if score_KxBxT[k, b, t] >= threshold[k]:
          expected[b, t] = k
          break
  exit_BxT = np.asarray(first_exit(score_KxBxT, threshold))
  np.testing.assert_array_equal(exit_BxT, expected)
  assert set(np.unique(exit_BxT)) == {0, 1, 2, 3}


def test_depth_grows_with_the_threshold_and_counts_add_up(
  first_exit, score_KxBxT
):
  mask = (np.arange(80).reshape(5, 16) % 7 != 0).astype(np.float32)
  cost_K = np.asarray([1.0, 2.0, 4.0, 8.0], np.float32)
  depth, compute = [], []
  for tau in (-INF, 0.0, 0.2, 0.5, 0.7, 0.9, 0.99, INF):
    exit_BxT = first_exit(score_KxBxT, full(tau))
    count_K = np.asarray(grid.exit_counts(exit_BxT, 4, mask))
    assert count_K.sum() == mask.sum()
    for k in range(4):
      assert count_K[k] == ((np.asarray(exit_BxT) == k) & (mask > 0)).sum()
    cost = grid.expected_compute(exit_BxT, cost_K, mask)
    # Integers and a power-of-two free division: exact to the last digit.
    assert float(cost) == np.float32(count_K @ cost_K) / mask.sum()
    depth.append(float(count_K @ np.arange(4)))
    compute.append(float(cost))
  assert depth == sorted(depth) and depth[0] == 0
  assert depth[-1] == 3 * mask.sum()
  assert compute == sorted(compute) and (compute[0], compute[-1]) == (1, 8)


CELLS = tuple((1, layer) for layer in (1, 2, 3, 4))


@pytest.mark.parametrize(
  'kind, cells, options, expected',
  [
    ('final', CELLS, {}, (0, 0, 0, 1)),
    ('uniform', CELLS, {}, (1, 1, 1, 1)),
    ('linear', CELLS, {}, (0.25, 0.5, 0.75, 1)),
    # e(l) = s * (0 + 1 + .. + l), l from 0, and L - 1 more at the end.
    ('layerskip', CELLS, dict(e_scale=0.5), (0, 0.5, 1.5, 3 + 1.5)),
    ('layerskip', ((1, 2), (1, 4)), dict(e_scale=1.0), (1, 6)),
    ('chosen', CELLS, dict(chosen=((2, 0.3), (4, 0.7))), (0, 0.3, 0, 0.7)),
    (
      'matrix',
      ((1, 2), (1, 3), (2, 1), (2, 3)),
      dict(matrix=((1, 2, 3), (4, 5, 6))),
      (2, 3, 4, 6),
    ),
  ],
)
def test_base_weights(kind, cells, options, expected):
  assert grid.base_weights(kind, cells, **options) == pytest.approx(expected)


def test_unknown_weights_and_schedules_are_errors():
  with pytest.raises(ValueError, match="unknown loss weights 'wrong'"):
    grid.base_weights('wrong', CELLS)
  with pytest.raises(ValueError, match="unknown loss schedule 'wrong'"):
    grid.schedule_factors('wrong', 0, 4, 10)


@pytest.mark.parametrize(
  'kind, step, expected',
  [
    ('constant', 0, (1, 1, 1, 1)),
    ('linear_warmup', 0, (0, 0, 0, 1)),
    ('linear_warmup', 2, (0.25, 0.25, 0.25, 1)),
    ('linear_warmup', 8, (1, 1, 1, 1)),
    ('linear_warmup', 99, (1, 1, 1, 1)),
    ('cosine_warmup', 0, (0, 0, 0, 1)),
    ('cosine_warmup', 4, (0.5, 0.5, 0.5, 1)),
    ('cosine_warmup', 2, (0.14644661,) * 3 + (1,)),
    ('cosine_warmup', 8, (1, 1, 1, 1)),
    # Every second readout, shifted by one each step.
    ('rotate', 0, (1, 0, 1, 1)),
    ('rotate', 1, (0, 1, 0, 1)),
    ('rotate', 2, (1, 0, 1, 1)),
    # One more from the top every steps / K updates.
    ('gradual', 0, (0, 0, 0, 1)),
    ('gradual', 2, (0, 0, 1, 1)),
    ('gradual', 3, (0, 0, 1, 1)),
    ('gradual', 4, (0, 1, 1, 1)),
    ('gradual', 8, (1, 1, 1, 1)),
    # Readout k of K stops at k/K of the steps; the last never does.
    ('switch_off', 0, (1, 1, 1, 1)),
    ('switch_off', 1, (1, 1, 1, 1)),
    ('switch_off', 2, (0, 1, 1, 1)),
    ('switch_off', 5, (0, 0, 1, 1)),
    ('switch_off', 6, (0, 0, 0, 1)),
    ('switch_off', 50, (0, 0, 0, 1)),
  ],
)
@pytest.mark.parametrize('jit', [False, True])
def test_schedule_factors(kind, step, expected, jit):
  run = lambda step: grid.schedule_factors(kind, step, 4, 8, 2)
  factor_K = (jax.jit(run) if jit else run)(jnp.int32(step))
  chex.assert_shape(factor_K, (4,))
  np.testing.assert_allclose(factor_K, expected, rtol=1e-6, atol=1e-7)
