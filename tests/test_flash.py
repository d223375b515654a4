"""Attention tile by tile is attention: values, gradients, and what it keeps."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ease_jax import sharding
from ease_jax.model import flash
from ease_jax.model.attention import Scoring, attention
from ease_jax.model.sight import Sight
from tests import tiny

ROWS, HEADS, WIDTH = 2, 4, 8
TILE = 8


def tensors(length, groups, dtype='float32'):
  """Queries, keys, values and what their gradient is asked of."""
  keys = jax.random.split(jax.random.key(0), 4)
  heads = HEADS, groups, groups
  made = [
    jax.random.normal(key, (ROWS, length, num, WIDTH), dtype)
    for key, num in zip(keys, heads)
  ]
  wanted = jax.random.normal(keys[3], (ROWS, length, HEADS * WIDTH))
  return *made, wanted


def sight_of(length, case):
  """Of the named case; positions leave some out where a router would."""
  position = jnp.arange(length)[None]
  seen = jax.random.bernoulli(jax.random.key(9), 0.5, (ROWS, length))
  gaps = jnp.cumsum(1 + seen.astype(jnp.int32), axis=1)
  begins = jax.random.bernoulli(jax.random.key(8), 0.1, (ROWS, length))
  start = jax.lax.cummax(jnp.where(begins, position, 0), axis=1)
  document = jnp.cumsum(begins, axis=1)
  return {
    'causal': Sight('causal', 0, position),
    'window': Sight('causal', 5, position),
    'hidden': Sight('causal', 0, position, seen),
    'gaps': Sight('causal', 11, gaps, seen),
    'documents': Sight('causal', 0, position - start, None, document),
    'near': Sight('causal', 5, position - start, seen, document),
    'full': Sight('full', 0, position),
    'full_hidden': Sight('full', 6, position, seen),
  }[case]


def both(sight, scoring):
  """Value and gradient by tiles, and by the mask."""

  def tiled(q, k, v):
    return flash.by_tiles(q, (k, v), sight, scoring, TILE)

  def whole(q, k, v):
    return attention(q, (k, v), sight.mask(), scoring)

  def asked(run, wanted):
    def total(*args):
      return (run(*args) * wanted).sum()

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))

  return functools.partial(asked, tiled), functools.partial(asked, whole)


@pytest.mark.parametrize(
  ('groups', 'length', 'cap'), [(4, 24, 0.0), (2, 29, 2.0)]
)
@pytest.mark.parametrize(
  'case',
  ['causal', 'window', 'hidden', 'gaps', 'near', 'full', 'full_hidden'],
)
def test_value_and_gradient_are_those_of_the_mask(case, length, groups, cap):
  *args, wanted = tensors(length, groups)
  tiled, whole = both(sight_of(length, case), Scoring(WIDTH**-0.5, cap))
  chex.assert_trees_all_close(
    tiled(wanted)(*args), whole(wanted)(*args), rtol=2e-5, atol=2e-5
  )


def test_half_precision_is_as_near_to_the_truth():
  sight = sight_of(29, 'hidden')
  scoring = Scoring(WIDTH**-0.5, 0.0)
  *args, _ = tensors(29, 2, 'bfloat16')
  q, k, v = args
  exact = [x.astype(jnp.float32) for x in args]
  truth = attention(exact[0], (exact[1], exact[2]), sight.mask(), scoring)
  whole = attention(q, (k, v), sight.mask(), scoring)
  tiled = flash.by_tiles(q, (k, v), sight, scoring, TILE)
  assert tiled.dtype == jnp.bfloat16
  error = jnp.abs(tiled.astype(jnp.float32) - truth).max()
  assert error <= 1.5 * jnp.abs(whole.astype(jnp.float32) - truth).max()


@pytest.mark.parametrize('case', ['gaps', 'documents'])
def test_no_gradient_comes_from_whom_a_token_does_not_see(case):
  """Exact zeros, where the mask has them."""
  length = 29
  sight = sight_of(length, case)
  q, k, v, _ = tensors(length, 2)
  scoring = Scoring(1.0, 0.0)

  def row(t, k, v):
    return flash.by_tiles(q, (k, v), sight, scoring, TILE)[:, t].sum()

  mask = np.broadcast_to(sight.mask(), (ROWS, length, length))
  for t in (0, 7, 8, 20, 28):
    dk, dv = jax.grad(functools.partial(row, t), (0, 1))(k, v)
    touched = (np.abs(dv).sum((2, 3)) > 0, np.abs(dk).sum((2, 3)) > 0)
    np.testing.assert_array_equal(touched[0], mask[:, t])
    assert not (touched[1] & ~mask[:, t]).any()


@pytest.mark.parametrize(
  ('sight', 'pairs'),
  [
    (('causal', 0), 4 * 5 // 2),
    (('full', 0), 16),
    # A tile before one's own reaches back 1 to 15 tokens.
    (('causal', TILE), 4 + 3),
    (('causal', TILE + 1), 4 + 3),
    (('causal', TILE + 2), 4 + 3 + 2),
    (('causal', 1), 4),
  ],
)
def test_tiles_that_nobody_looks_into_are_left_out(sight, pairs):
  attention, window = sight
  rule = flash.Rule(attention == 'causal', window, 4 * TILE, TILE, 0.0)
  ranges = [rule.seen_tiles(i) for i in range(rule.num_tiles)]
  assert sum(int(end) - int(first) for first, end in ranges) == pairs


def test_the_tile_fits_the_rows():
  assert flash.tile_of(rows=64, length=256) == 64
  assert flash.tile_of(rows=8, length=2048) == 128
  assert flash.tile_of(rows=48, length=64) == 64  # one tile: no tiles
  assert flash.tile_of(rows=1 << 20, length=2048) == flash.MIN_TILE


@pytest.mark.parametrize(
  'sizes, own', [((1, 1, 1), 16 * 4), ((2, 4, 1), 2 * 4), ((2, 2, 2), 4 * 2)]
)
def test_the_tile_fits_the_rows_of_one_device(monkeypatch, sizes, own):
  asked = []

  def noted(rows, length):
    asked.append(rows)
    return length

  monkeypatch.setattr(flash, 'tile_of', noted)
  mesh = jax.sharding.AbstractMesh(sizes, sharding.AXES)
  q, k, v, _ = (
    jax.ShapeDtypeStruct((16, *x.shape[1:]), x.dtype) for x in tensors(8, 2)
  )

  def run(q, k, v):
    sight = sight_of(8, 'causal')
    return flash.among(q, (k, v), sight, Scoring(1.0, 0.0))

  with jax.sharding.use_abstract_mesh(mesh):
    jax.eval_shape(run, q, k, v)
  assert asked == [own]


def kept_bytes(length):
  """What a gradient of so many tokens holds besides its arguments."""
  sight = sight_of(length, 'causal')
  *args, wanted = tensors(length, 2)
  tiled, _ = both(sight, Scoring(1.0, 0.0))
  compiled = tiled(wanted).lower(*args).compile()
  return compiled.memory_analysis().temp_size_in_bytes


def test_memory_is_linear_in_the_length():
  assert kept_bytes(8192) <= 4.1 * kept_bytes(2048)


@pytest.fixture
def small_tiles(monkeypatch):
  """Windows of more than 16 tokens are several tiles."""
  jax.clear_caches()
  monkeypatch.setattr(flash, 'TILE_ELEMENTS', 1)
  monkeypatch.setattr(flash, 'WHOLE_ELEMENTS', 1)
  monkeypatch.setattr(flash, 'MIN_TILE', 16)
  yield
  jax.clear_caches()


LOCAL = dict(window=13, global_every=2)


def test_a_models_gradient_is_the_same_in_tiles(small_tiles):
  model = tiny.stack(**LOCAL)
  params = tiny.params(model)
  tokens = tiny.batch(length=40)['tokens']

  def total(params):
    logits = tiny.logits(params, tokens, model=model)
    return jnp.square(logits).mean()

  tiled = jax.jit(jax.grad(total))(params)
  assert 'custom_vjp' in str(jax.make_jaxpr(total)(params))
  flash.MIN_TILE = 64
  jax.clear_caches()
  whole = jax.jit(jax.grad(total))(params)
  chex.assert_trees_all_close(tiled, whole, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('policy', ['copy_state', 'drop'])
def test_exits_in_tiles_are_those_of_cached_decoding(small_tiles, policy):
  """Decoding looks at a cache, never at tiles."""
  model = tiny.stack(**LOCAL)
  params = tiny.params(model)
  batch = tiny.batch(length=40)
  threshold_K = tiny.thresholds(model, params, 'max_prob', batch)
  point = tiny.point('max_prob', policy, threshold_K)
  exits_BxT = tiny.masked(model, params, point, batch).exit_BxT
  assert len(np.unique(exits_BxT)) > 2
  decoded = tiny.decoded(model, params, point, batch)
  np.testing.assert_array_equal(exits_BxT, decoded.exit_BxT)
