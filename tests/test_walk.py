"""The walk: what each cell shows of a token that exited."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from ease_jax import decode
from ease_jax.checks import ConfigError
from ease_jax.core.grid import reaches
from ease_jax.evaluate import passes
from ease_jax.model.layers import positions
from ease_jax.model.walk import RUNNING, Travel, before_exits, settled, walk

ROWS = 3
LENGTH = 12
BATCH = tiny.batch(ROWS, LENGTH)
MODEL = tiny.refine()  # 3 segments of layers 1 and 2, readouts on both
PARAMS = tiny.params(MODEL)


@functools.partial(jax.jit, static_argnames='rule')
def keys_of(threshold_K, *, rule):
  """Where tokens exit, and every cell's keys as handed to attention."""
  bound = MODEL.bind({'params': PARAMS})

  def read(k, state, exits):
    here = bound.read(k, state[RUNNING])
    obs = bound.observe(here, exits.previous, BATCH['targets'])
    memory, score_BxT = rule.signal.step(exits.memory, obs)
    exits = settled(exits, k, reaches(score_BxT, threshold_K[k]), ())
    return exits._replace(memory=memory, previous=here), None

  walked = walk(
    bound,
    MODEL.grid.cells,
    bound.start(BATCH['tokens'], positions(LENGTH)),
    before_exits(jnp.zeros((ROWS, LENGTH), bool), ()),
    layer=passes.windowed(bound, LENGTH),
    travel=Travel(positions(LENGTH)),
    read=read,
    policy=rule.policy,
  )
  return walked.exits.exit_BxT, jnp.stack([key for key, _ in walked.kv])


def test_latest_is_the_last_that_a_layer_computed_for_the_token():
  """Every cell's keys against the definition."""
  threshold_K = tiny.thresholds(MODEL, PARAMS, 'max_prob', BATCH)
  rule = tiny.point('max_prob', 'latest', 0.5).rule
  exit_BxT, key_LxBxTxGxD = jax.device_get(keys_of(threshold_K, rule=rule))
  depth_K = MODEL.grid.depth_K
  checked = set()

  for b, t in np.ndindex(ROWS, LENGTH):
    depth = depth_K[exit_BxT[b, t]]  # cells 0 to depth - 1 were run
    for cell in range(depth, MODEL.grid.depth):
      # The same layer in the last segment where it was run, if it ever was;
      # otherwise segment 1, where it projected the frozen state.
      runs = list(range(cell % 2, depth, 2)) or [cell % 2]
      np.testing.assert_array_equal(
        key_LxBxTxGxD[cell, b, t], key_LxBxTxGxD[runs[-1], b, t]
      )
      checked.add((cell, runs[-1]))
  assert {(4, 2), (5, 3), (2, 0), (3, 1)} <= checked


def test_while_a_token_runs_its_keys_are_its_own_in_each_segment():
  threshold_K = tiny.thresholds(MODEL, PARAMS, 'max_prob', BATCH)
  rule = tiny.point('max_prob', 'latest', 0.5).rule
  exit_BxT, key_LxBxTxGxD = jax.device_get(keys_of(threshold_K, rule=rule))
  deep = np.argwhere(exit_BxT == 5)
  assert len(deep) > 0
  for b, t in deep:
    assert (key_LxBxTxGxD[0, b, t] != key_LxBxTxGxD[2, b, t]).any()


def test_a_cache_for_fewer_segments_is_refused():
  cache = decode.init_cache(tiny.refine(segments=2), ROWS, LENGTH)
  never = tiny.point('max_prob', 'copy_state', np.inf)
  with pytest.raises(ConfigError) as error:
    tiny.decoded(MODEL, PARAMS, never, BATCH, cache)
  assert str(error.value) == (
    'the cache has 4 layers; model.segments=3 runs 6; use init_cache with '
    'the same config'
  )
