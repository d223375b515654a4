import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ease_jax.checks import ConfigError
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


def cell(block, **fields):
  return grid.Cell(block, **fields)


# A prelude, two runs of a segment with two readouts, a coda.
LONG = grid.Grid(
  segment=(cell(1, readout=0), cell(2), cell(1, readout=1, writes=('z',))),
  segments=2,
  prelude=(cell(0, writes=('x',)),),
  coda=(cell(3),),
)


def test_a_grid_unrolls_its_segments_between_prelude_and_coda():
  assert [c.block for c in LONG.cells] == [0, 1, 2, 1, 1, 2, 1]
  assert [c.readout for c in LONG.cells] == [None, 0, None, 1, 2, None, 3]
  assert [c.number for c in (*LONG.cells, *LONG.tail)] == list(range(8))
  assert [c.block for c in LONG.head] == [0]
  assert (LONG.num_readouts, LONG.per_segment, LONG.num_blocks) == (4, 2, 4)


def test_a_readout_is_reached_after_its_cells_and_costs_the_coda_too():
  assert LONG.reach_K == (2, 4, 5, 7)
  assert LONG.depth_K == (3, 5, 6, 8)
  assert LONG.depth == 8
  assert LONG.names_K == ((1, 1), (1, 3), (2, 1), (2, 3))


def test_the_cells_between_two_readouts_are_those_a_token_still_needs():
  assert [c.number for c in LONG.between(None, 0)] == [0, 1]
  assert [c.number for c in LONG.between(0, 1)] == [2, 3]
  assert [c.number for c in LONG.between(1, 3)] == [4, 5, 6]
  every = (*LONG.between(None, 1), *LONG.between(1, 3))
  assert every == LONG.cells


def test_streams_written_in_a_segment_are_carried_to_the_next():
  assert LONG.carried == ('z',)
  assert grid.Grid((cell(0, readout=0),)).carried == ()


@pytest.mark.parametrize(
  'fields, message',
  [
    (dict(segment=()), 'a grid needs at least one cell in a segment'),
    (
      dict(segment=(cell(0, readout=0),), segments=0),
      'a grid has 0 segments; use 1 up',
    ),
    (
      dict(segment=(cell(0, readout=0),), coda=(cell(1, readout=0),)),
      'a readout stands in a prelude or coda; only a segment can be read out',
    ),
    (
      dict(segment=(cell(0, readout=0), cell(1))),
      'the readouts of a segment are numbered [0]; number them from 0 and let '
      'one stand behind the last cell, which always answers',
    ),
    (
      dict(segment=(cell(0, readout=1),)),
      'the readouts of a segment are numbered [1]; number them from 0 and let '
      'one stand behind the last cell, which always answers',
    ),
    (
      dict(segment=(cell(0), cell(2, readout=0))),
      'the cells use the blocks [0, 2]; number them from 0 without a gap',
    ),
  ],
)
def test_a_grid_that_makes_no_sense_is_refused(fields, message):
  with pytest.raises(ConfigError) as error:
    grid.Grid(**fields)
  assert str(error.value) == message


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
