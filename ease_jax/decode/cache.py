"""Keys and values of the tokens so far, one array per cell and row block.

Steps only read a cache and return what one more token adds; `commit` writes
it, in place, in a program of its own or at the end of a loop's body. Otherwise
XLA copies whole caches around the control flow that skips cells.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.checks import need
from ease_jax.model import Body
from ease_jax.model.attention import KV, Past, Scoring, attention

SMALLEST = 64  # slots
MAX_BLOCKS = 4


class Cache(NamedTuple):
  """What attention may look back at.

  Slots are filled from left to right, the same one in all rows; rows whose
  prompt is shorter start at a later slot.

  Attributes:
    key: [cell][row block] of [rows, G, C, D/H].
    value: the same.
    seen_LxBxC: in which cells later tokens may see a token.
    first_B: the slot of each row's first token.
  """

  key: tuple[tuple[jax.Array, ...], ...]
  value: tuple[tuple[jax.Array, ...], ...]
  seen_LxBxC: jax.Array
  first_B: jax.Array

  @property
  def capacity(self) -> int:
    """Slots, C."""
    return self.seen_LxBxC.shape[2]


def row_blocks(batch_size: int) -> list[int]:
  """How many rows each block has.

  Attention to a block is skipped where all of its rows have exited. On CPUs
  that is worth a few branches (`docs/performance.md`); accelerators wait for
  every branch.
  """
  on_cpu = jax.default_backend() == 'cpu'
  num = min(MAX_BLOCKS, batch_size) if on_cpu else 1
  ends = [batch_size * i // num for i in range(num + 1)]
  return [end - start for start, end in zip(ends, ends[1:])]


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


def init_cache(
  model: Body, batch_size: int, slots: int, first: int = 0
) -> Cache:
  """An empty cache with room for at least so many tokens.

  Args:
    model: a body.
    batch_size: B.
    slots: at least so many.
    first: the slot of the first token.
  """
  cfg = model.cfg
  num = model.grid.num_cells
  capacity = capacity_for(slots)
  shape = cfg.num_kv_heads, capacity, cfg.head_dim

  def zeros() -> tuple[tuple[jax.Array, ...], ...]:
    return tuple(
      tuple(
        jnp.zeros((rows, *shape), cfg.dtype) for rows in row_blocks(batch_size)
      )
      for _ in range(num)
    )

  # Keys and values do not share arrays: they will be given away one by one.
  seen_LxBxC = jnp.zeros((num, batch_size, capacity), bool)
  first_B = jnp.full(batch_size, first, jnp.int32)
  return Cache(zeros(), zeros(), seen_LxBxC, first_B)


def check(cache: Cache, model: Body) -> None:
  """Raises ConfigError if the cache was made for another model."""
  need(
    len(cache.key) == model.grid.num_cells,
    f'the cache has {len(cache.key)} layers; model.segments='
    f'{model.cfg.segments} runs {model.grid.num_cells}; use init_cache with '
    'the same config',
  )


def seen(
  cache: Cache, number: int, position_BxT: jax.Array, window: int
) -> jax.Array:
  """Who sees which slots of a cache, [B, T, C] bool.

  Args:
    cache: of the tokens before.
    number: of the cell.
    position_BxT: of the tokens that look back; B may be 1.
    window: tokens that they see, themselves included; 0 = all.
  """
  tokens = position_BxT.shape[1]
  seen_BxTxC = jnp.repeat(cache.seen_LxBxC[number][:, None], tokens, axis=1)
  if not window:
    return seen_BxTxC
  slot_1xC = jnp.arange(cache.capacity)[None]
  place_BxC = slot_1xC - cache.first_B[:, None]
  ago_BxTxC = position_BxT[:, :, None] - place_BxC[:, None, :]
  return seen_BxTxC & (ago_BxTxC < window)


def attend(
  cache: Cache,
  number: int,
  query_BxTxHxD: jax.Array,
  kv: KV,
  mask_BxTxT: jax.Array,
  seen_BxTxC: jax.Array,
  scoring: Scoring,
  live_B: jax.Array | None,
) -> jax.Array:
  """Attention of T tokens to each other and to a cache, [B, T, D].

  Args:
    cache: of the tokens before.
    number: of the cell.
    query_BxTxHxD: queries.
    kv: keys and values of the T tokens.
    mask_BxTxT: which of them each token sees; B may be 1.
    seen_BxTxC: which of the tokens before.
    scoring: of the model.
    live_B: rows whose result somebody reads; None = all. A row block that
      nobody reads costs nothing.
  """
  keys = cache.key[number]
  values = cache.value[number]
  batch_size = len(query_BxTxHxD)
  mask_BxTxT = jnp.broadcast_to(mask_BxTxT, (batch_size, *mask_BxTxT.shape[1:]))
  if len(keys) == 1:
    live_B = None  # the cell's own branch skips all there is

  mixed = []
  start = 0
  for key, value in zip(keys, values, strict=True):
    rows = slice(start, start + len(key))
    start += len(key)
    arguments = (
      query_BxTxHxD[rows],
      (kv[0][rows], kv[1][rows]),
      mask_BxTxT[rows],
      Past(key, value, seen_BxTxC[rows]),
    )
    mixed.append(_attend_if(live_B, rows, scoring, arguments))

  return mixed[0] if len(mixed) == 1 else jnp.concatenate(mixed)


def _attend_if(
  live_B: jax.Array | None, rows: slice, scoring: Scoring, arguments
):
  def attend(query, kv, mask, past):
    return attention(query, kv, mask, scoring, past)

  if live_B is None:
    return attend(*arguments)

  shape = jax.eval_shape(attend, *arguments)

  def nothing(*unused):
    del unused
    return jnp.zeros(shape.shape, shape.dtype)

  return jax.lax.cond(live_B[rows].any(), attend, nothing, *arguments)


class New(NamedTuple):
  """What a cache does not have yet, of T neighbouring tokens.

  Attributes:
    kv: keys and values by number of the cell, of cells that are written.
    seen_LxBxT: in which cells later tokens may see them.
    ran_LxBxT: where both are new; None = everywhere.
  """

  kv: dict[int, KV]
  seen_LxBxT: jax.Array
  ran_LxBxT: jax.Array | None = None


@functools.partial(jax.jit, donate_argnums=0)
def commit(cache: Cache, new: New, slot: jax.Array) -> Cache:
  """The cache with the tokens from `slot` on; the old one is used up."""
  start = jnp.asarray(slot)
  seen_LxBxT = new.seen_LxBxT

  if new.ran_LxBxT is not None:
    old_LxBxT = _read(cache.seen_LxBxC, start, seen_LxBxT.shape[2])
    seen_LxBxT = jnp.where(new.ran_LxBxT, seen_LxBxT, old_LxBxT)
  seen_LxBxC = _put(cache.seen_LxBxC, seen_LxBxT, start)

  key = list(cache.key)
  value = list(cache.value)
  for number, (key_BxTxGxD, value_BxTxGxD) in new.kv.items():
    ran_BxT = None if new.ran_LxBxT is None else new.ran_LxBxT[number]
    key[number] = _write(key[number], key_BxTxGxD, ran_BxT, start)
    value[number] = _write(value[number], value_BxTxGxD, ran_BxT, start)
  return Cache(tuple(key), tuple(value), seen_LxBxC, cache.first_B)


def _read(x: jax.Array, start: jax.Array, length: int) -> jax.Array:
  return jax.lax.dynamic_slice_in_dim(x, start, length, axis=2)


def _put(x: jax.Array, update: jax.Array, start: jax.Array) -> jax.Array:
  return jax.lax.dynamic_update_slice_in_dim(x, update, start, axis=2)


def _write(
  blocks: Sequence[jax.Array],
  new_BxTxGxD: jax.Array,
  ran_BxT: jax.Array | None,
  start: jax.Array,
) -> tuple[jax.Array, ...]:
  new_BxGxTxD = new_BxTxGxD.transpose(0, 2, 1, 3)
  written = []
  first = 0

  for block in blocks:
    rows = slice(first, first + len(block))
    first += len(block)
    update = new_BxGxTxD[rows]
    if ran_BxT is not None:
      old = _read(block, start, update.shape[2])
      update = jnp.where(ran_BxT[rows, None, :, None], update, old)
    written.append(_put(block, update, start))

  return tuple(written)


@functools.partial(jax.jit, static_argnums=1)
def grow(cache: Cache, slots: int) -> Cache:
  """The same tokens with room for so many."""
  more = capacity_for(slots) - cache.capacity

  def padded(block: jax.Array) -> jax.Array:
    return jnp.pad(block, ((0, 0), (0, 0), (0, more), (0, 0)))

  return Cache(
    jax.tree.map(padded, cache.key),
    jax.tree.map(padded, cache.value),
    jnp.pad(cache.seen_LxBxC, ((0, 0), (0, 0), (0, more))),
    cache.first_B,
  )
