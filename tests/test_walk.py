"""The walk: what each cell shows of a token that exited."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from ease_jax import decode
from ease_jax.checks import ConfigError
from ease_jax.core.grid import Cell, reaches
from ease_jax.core.policies import POLICIES
from ease_jax.core.routers import Route
from ease_jax.evaluate import passes
from ease_jax.model.attention import positions
from ease_jax.model.exits import before_exits, settled
from ease_jax.model.sight import Places
from ease_jax.model.walk import RUNNING, Ran, Travel, walk

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
    obs = bound.observe(k, here, exits.previous, BATCH['targets'])
    memory, score_BxT = rule.signal.step(exits.memory, obs)
    exits = settled(exits, k, reaches(score_BxT, threshold_K[k]), ())
    return exits._replace(memory=memory, previous=here), None

  walked = walk(
    bound,
    MODEL.grid.cells,
    bound.start(BATCH['tokens'], positions(LENGTH)),
    before_exits(jnp.zeros((ROWS, LENGTH), bool), ()),
    layer=passes.windowed(bound, Places(positions(LENGTH))),
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


class Routed:
  """A body whose routers let the last two of four tokens through."""

  def route(self, cell, h_BxTxD, travel):
    del cell, h_BxTxD, travel
    return Route(jnp.asarray([[False, False, True, True]]))


@pytest.mark.parametrize(
  'policy, goes, seen',
  [
    ('recompute', [0, 0, 1, 1], [0, 0, 1, 1]),
    ('copy_state', [0, 0, 0, 1], [0, 0, 1, 1]),
    ('drop', [0, 0, 0, 1], [0, 0, 0, 1]),
  ],
)
def test_a_router_and_an_exit_both_keep_a_token_out(policy, goes, seen):
  """Tokens 1 and 3 of 4 are done, and tokens 1 and 2 are not let through."""
  done_BxT = jnp.asarray([[True, False, True, False]])
  h_BxTxD = jnp.zeros((1, 4, 2))

  def layer(call, h_BxTxD):
    del call
    return Ran(h_BxTxD + 1)

  walked = walk(
    Routed(),
    [Cell(block=0, router='half')],
    {RUNNING: h_BxTxD},
    before_exits(done_BxT),
    layer=layer,
    travel=Travel(positions(4)),
    policy=POLICIES[policy],
  )
  (call,) = walked.calls
  np.testing.assert_array_equal(call.goes_BxT[0], goes)
  np.testing.assert_array_equal(call.seen_BxT[0], seen)
  np.testing.assert_array_equal(walked.state[RUNNING][0, :, 0], goes)


def test_a_cache_for_fewer_segments_is_refused():
  cache = decode.init_cache(tiny.refine(segments=2), ROWS, LENGTH)
  never = tiny.point('max_prob', 'copy_state', np.inf)
  with pytest.raises(ConfigError) as error:
    tiny.decoded(MODEL, PARAMS, never, BATCH, cache)
  assert str(error.value) == (
    'the cache has 4 layers; model.segments=3 runs 6; use init_cache with '
    'the same config'
  )
