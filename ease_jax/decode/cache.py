"""Keys and values of the tokens so far, one array per layer and row block.

Steps only read a cache and return what one more token adds; `commit` writes
it, in place, in a program of its own. Otherwise XLA copies whole caches around
the control flow that skips layers.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.config import ConfigError, ModelConfig
from ease_jax.model import layers

SMALLEST = 64  # slots
MAX_BLOCKS = 4


class Cache(NamedTuple):
  """What attention may look back at.

  Slots are filled from left to right, the same one in all rows; rows whose
  prompt is shorter start at a later slot.
  """

  # [layer][block] of [rows, Hkv, C, D/H]
  key: tuple[tuple[jax.Array, ...], ...]
  value: tuple[tuple[jax.Array, ...], ...]
  layers_BxC: jax.Array  # the first so many layers may look at the token

  @property
  def capacity(self) -> int:
    return self.layers_BxC.shape[1]


def row_blocks(batch_size: int) -> list[int]:
  """How many rows each block has.

  Attention to a block is skipped where all of its rows have exited. On CPUs
  that is worth a few branches (`docs/performance.md`); accelerators wait for
  every branch.
  """
  cpu = jax.default_backend() == 'cpu'
  num = min(MAX_BLOCKS, batch_size) if cpu else 1
  return [
    batch_size * (i + 1) // num - batch_size * i // num for i in range(num)
  ]


def capacity_for(slots: int) -> int:
  """The smallest of 64, 96, 128, 192, 256, ... that holds so many.

  A step is compiled once for each, and attention reads all of it.
  """
  size = SMALLEST
  while size < slots:
    if size * 3 // 2 >= slots:
      return size * 3 // 2
    size *= 2
  return size


def init_cache(cfg: ModelConfig, batch_size: int, slots: int) -> Cache:
  """An empty cache with room for at least so many tokens."""
  capacity, blocks = capacity_for(slots), row_blocks(batch_size)
  shape = cfg.num_kv_heads, capacity, cfg.head_dim

  def zeros():
    return tuple(
      tuple(jnp.zeros((rows, *shape), cfg.dtype) for rows in blocks)
      for _ in range(cfg.depth)
    )

  # Not shared: they will be given away one by one.
  return Cache(zeros(), zeros(), jnp.zeros((batch_size, capacity), jnp.int32))


def check(cache: Cache, cfg: ModelConfig) -> None:
  """Raises ConfigError if the cache was made for another model."""
  if len(cache.key) != cfg.depth:
    raise ConfigError(
      f'the cache has {len(cache.key)} layers; model.segments='
      f'{cfg.segments} runs {cfg.depth}; use init_cache with the same '
      'config'
    )


def past(
  cache: Cache, layer: int, live_B: jax.Array | None, tokens: int = 1
) -> tuple[layers.Past, ...]:
  """What so many tokens may see of the cache in one layer.

  Args:
    cache: the cache.
    layer: counted from 0 through all segments.
    live_B: rows whose result somebody reads; None = all.
    tokens: T.
  """
  if len(cache.key[layer]) == 1:
    live_B = None  # the layer's own branch skips all there is
  visible_BxTxC = jnp.repeat(
    (cache.layers_BxC > layer)[:, None], tokens, axis=1
  )
  blocks, start = [], 0
  for key, value in zip(cache.key[layer], cache.value[layer], strict=True):
    rows = slice(start, start := start + len(key))
    live = None if live_B is None else live_B[rows].any()
    blocks.append(layers.Past(key, value, visible_BxTxC[rows], live))
  return tuple(blocks)


class New(NamedTuple):
  """What a cache does not have yet, of T neighbouring tokens."""

  kv: dict[int, layers.KV]  # by layer, of those that are written
  layers_BxT: jax.Array  # the first so many layers may look at them
  ran_LxBxT: jax.Array | None = None  # where these are new; None = everywhere


@functools.partial(jax.jit, donate_argnums=0)
def commit(cache: Cache, new: New, slot: jax.Array) -> Cache:
  """The cache with the tokens from `slot` on; the old one is used up."""
  start = jnp.asarray(slot)
  length = new.layers_BxT.shape[1]
  read = functools.partial(
    jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=length
  )
  put = jax.lax.dynamic_update_slice_in_dim

  def write(blocks, new_BxTxGxD, ran_BxT):
    new_BxGxTxD, out, first = new_BxTxGxD.transpose(0, 2, 1, 3), [], 0
    for block in blocks:
      rows = slice(first, first := first + len(block))
      value = new_BxGxTxD[rows]
      if ran_BxT is not None:
        mask = ran_BxT[rows, None, :, None]
        value = jnp.where(mask, value, read(block, axis=2))
      out.append(put(block, value, start, axis=2))
    return tuple(out)

  ran_LxBxT, layers_BxT = new.ran_LxBxT, new.layers_BxT
  if ran_LxBxT is not None:
    old_BxT = read(cache.layers_BxC, axis=1)
    layers_BxT = jnp.where(ran_LxBxT.any(0), layers_BxT, old_BxT)
  key, value = list(cache.key), list(cache.value)
  for layer, (key_BxTxGxD, value_BxTxGxD) in new.kv.items():
    ran_BxT = None if ran_LxBxT is None else ran_LxBxT[layer]
    key[layer] = write(key[layer], key_BxTxGxD, ran_BxT)
    value[layer] = write(value[layer], value_BxTxGxD, ran_BxT)
  layers_BxC = put(cache.layers_BxC, layers_BxT, start, axis=1)
  return Cache(tuple(key), tuple(value), layers_BxC)


@functools.partial(jax.jit, static_argnums=1)
def grow(cache: Cache, slots: int) -> Cache:
  """The same tokens with room for so many."""
  more = capacity_for(slots) - cache.capacity
  pad = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0)))
  return Cache(
    jax.tree.map(pad, cache.key),
    jax.tree.map(pad, cache.value),
    jnp.pad(cache.layers_BxC, ((0, 0), (0, more))),
  )
