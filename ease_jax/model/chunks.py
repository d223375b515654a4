"""Tokens in chunks, so that no device holds the logits of all of them.

A chunk has as many tokens as a share of the device's memory holds logits of,
and no fewer than make its products worth reading the whole unembedding for.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ease_jax import sharding
from ease_jax.model.unembedding import Unembedding

CHUNK_ELEMENTS = 1 << 22  # float32 logits a device holds at least: 16 MiB
SHARE = 64  # 1 / the share of a device's memory that they take, if it is known
MIN_TOKENS = 64  # of a chunk, however large the vocabulary is

Tree = Any  # any tree of arrays


def at_once(tokens: int, vocab_size: int, memory: int | None) -> int:
  """Tokens of a chunk, so that all chunks are of nearly one size.

  Args:
    tokens: of a device.
    vocab_size: tokens of the vocabulary whose logits it makes.
    memory: bytes of the device; None = it is not known. Rounded down to a power
      of two, so that those of one kind agree on a program.
  """
  elements = CHUNK_ELEMENTS
  if memory is not None:
    rounded = 1 << (memory.bit_length() - 1)
    elements = max(elements, rounded // SHARE // 4)
  most = max(elements // vocab_size, MIN_TOKENS)
  chunks = -(-tokens // most)
  return -(-tokens // chunks)


@functools.cache
def device_memory() -> int | None:
  """Bytes that a device may use; None where it does not say, as on a CPU."""
  stats = jax.local_devices()[0].memory_stats() or {}
  return stats.get('bytes_limit')


def chunked(*trees_N: Tree, vocab_size: int) -> tuple[Tree, ...]:
  """Pads N with zeros and cuts it: [chunks, n, ...], back by `joined`.

  Each part of the rows of a mesh is cut for itself, so that a chunk has a
  piece of every part, and no token leaves its device.
  """
  num = len(jax.tree.leaves(trees_N)[0])
  parts = sharding.row_parts()
  own = -(-num // parts)
  size = at_once(own, sharding.local_vocab(vocab_size), device_memory())
  chunks = -(-own // size)

  def split(x: jax.Array) -> jax.Array:
    shape = x.shape[1:]
    x = _padded(x, 0, parts * own)
    x = _padded(x.reshape(parts, own, *shape), 1, chunks * size)
    x = x.reshape(parts, chunks, size, *shape).swapaxes(0, 1)
    x = x.reshape(chunks, parts * size, *shape)
    return sharding.constrain(x, None, sharding.ROWS)

  return jax.tree.map(split, trees_N)


def _padded(x: jax.Array, axis: int, size: int) -> jax.Array:
  """With zeros behind, so that an axis has so many."""
  padding = [(0, 0)] * x.ndim
  padding[axis] = 0, size - x.shape[axis]
  return jnp.pad(x, padding)


def joined(x: jax.Array, num: int) -> jax.Array:
  """What was made of chunks, [chunks, n, ...], as one array [num, ...]."""
  parts = sharding.row_parts()
  shape = x.shape[2:]
  x = x.reshape(len(x), parts, -1, *shape).swapaxes(0, 1)
  x = x.reshape(parts, -1, *shape)[:, : -(-num // parts)]
  return x.reshape(-1, *shape)[:num]


def placed(w_VxD: Unembedding) -> Unembedding:
  """Put together for all chunks, but for the part of the vocabulary."""

  def place(x: jax.Array) -> jax.Array:
    is_table = x.ndim == 2 and len(x) == w_VxD.shape[0]
    axes = (sharding.TENSOR,) if is_table else ()
    return sharding.constrain(x, *axes)

  return jax.tree.map(place, w_VxD)
