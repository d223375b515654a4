"""Tokens in chunks, so that no device holds the logits of all of them."""

from typing import Any

import jax
import jax.numpy as jnp

from ease_jax import sharding
from ease_jax.model.unembedding import Unembedding

CHUNK_ELEMENTS = 1 << 22  # float32 logits a device holds at once: 16 MiB

Tree = Any  # any tree of arrays


def chunked(*trees_N: Tree, vocab_size: int) -> tuple[Tree, ...]:
  """Pads N with zeros and cuts it: [chunks, n, ...], back by `joined`.

  Each part of the rows of a mesh is cut for itself, so that a chunk has a
  piece of every part, and no token leaves its device.
  """
  num = len(jax.tree.leaves(trees_N)[0])
  parts = sharding.row_parts()
  own = -(-num // parts)
  chunks = -(-own * sharding.local_vocab(vocab_size) // CHUNK_ELEMENTS)
  size = -(-own // chunks)

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
