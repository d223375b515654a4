"""Attention of whole windows, tile by tile, with memory linear in T.

FlashAttention (Dao et al. 2205.14135, algorithms 1 and 4) in plain JAX. Scores
are made for one tile of queries and keys at a time, and again in the backward
pass; what is kept is the result and, for each query, the logarithm of its
softmax's denominator. Tiles in which nobody sees anybody are left out, which is
nearly half of them where attention is causal.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ease_jax import sharding
from ease_jax.model import backends
from ease_jax.model.attention import KV, NEGATIVE, Scoring, attention
from ease_jax.model.sight import Sight

# Scores a device makes at once, its rows and heads together: 1 MiB of float32,
# which the cache of a core holds. A quarter and four times as many are slower
# on CPUs.
TILE_ELEMENTS = 1 << 18
WHOLE_ELEMENTS = 1 << 20  # so few are one tile: tiles would gain little
MIN_TILE = 32  # tokens; smaller products are too small for one call

_product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)


def among(
  q_BxTxHxD: jax.Array, kv: KV, sight: Sight, scoring: Scoring
) -> jax.Array:
  """`attention` among the tokens of whole windows, [B, T, D].

  By a kernel of the device where it can, else in tiles, or whole if it is one.

  Args:
    q_BxTxHxD: queries.
    kv: keys and values of the same tokens.
    sight: whom each token sees.
    scoring: what products of queries and keys become.
  """
  widest = backends.cudnn_width()
  if backends.cudnn_can(q_BxTxHxD, sight, scoring, widest):
    return backends.by_cudnn(q_BxTxHxD, kv, sight, scoring)
  batch_size, length, heads, _ = q_BxTxHxD.shape
  rows = sharding.local_rows(batch_size) * sharding.local_heads(heads)
  tile = tile_of(rows, length)
  if tile == length:
    return attention(q_BxTxHxD, kv, sight.mask(), scoring)
  return by_tiles(q_BxTxHxD, kv, sight, scoring, tile)


def tile_of(rows: int, length: int) -> int:
  """Tokens on a side of a tile: a power of two, or all if one tile will do.

  Args:
    rows: B * H, those of one device.
    length: T.
  """
  if rows * length**2 <= WHOLE_ELEMENTS:
    return length
  side = MIN_TILE
  while rows * (2 * side) ** 2 <= TILE_ELEMENTS:
    side *= 2
  return min(side, length)


def by_tiles(
  q_BxTxHxD: jax.Array, kv: KV, sight: Sight, scoring: Scoring, tile: int
) -> jax.Array:
  """`among`, in tiles of so many tokens on a side."""
  B, T, H, D = q_BxTxHxD.shape
  num = -(-T // tile)
  pad = num * tile - T

  def split(x_BxTxHxD: jax.Array) -> jax.Array:
    """[num, B, heads, tile, D], zeros behind the last token."""
    x = jnp.pad(x_BxTxHxD, ((0, 0), (0, pad), (0, 0), (0, 0)))
    x = x.reshape(B, num, tile, *x.shape[2:])
    return x.transpose(1, 0, 3, 2, 4)

  def places(x_BxT: jax.Array) -> jax.Array:
    """[num, B, tile]; B may be 1."""
    x = jnp.pad(x_BxT, ((0, 0), (0, pad)))
    return x.reshape(-1, num, tile).swapaxes(0, 1)

  keys = split(kv[0])
  queries = split(q_BxTxHxD * scoring.scale)
  # Queries that share their keys are rows of one product.
  queries = queries.reshape(num, B, keys.shape[2], -1, D)

  rule = Rule(sight.is_causal, sight.window, T, tile, scoring.cap)
  seen = sight.seen_BxT
  document = sight.document_BxT
  tokens = _Tokens(
    places(sight.position_BxT),
    None if seen is None else places(seen),
    None if document is None else places(document),
  )
  mixed: jax.Array = _tiled(rule, queries, keys, split(kv[1]), tokens)
  mixed = mixed.reshape(num, B, H, tile, D).transpose(1, 0, 3, 2, 4)
  return mixed.reshape(B, num * tile, H * D)[:, :T]


class Rule(NamedTuple):
  """What is the same for all tiles of a call, and static."""

  is_causal: bool
  window: int
  length: int  # T; tokens behind it fill the last tile
  tile: int
  cap: float

  @property
  def num_tiles(self) -> int:
    return -(-self.length // self.tile)

  def seen_tiles(self, i: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """The first tile of keys that tile i of queries sees, and one past all."""
    first = jnp.int32(0)
    if self.window:
      # Between the nearest tokens of tiles i and j lie (i - j - 1) whole tiles;
      # positions of one document are no nearer to each other than that.
      reach = 1 + (self.window - 2) // self.tile
      first = jnp.maximum(first, i - reach)
    end = i + 1 if self.is_causal else self.num_tiles
    return first, jnp.int32(end)


class _Tokens(NamedTuple):
  """What is known of the tokens, tile by tile; B may be 1."""

  position: jax.Array  # [num, B, tile]
  seen: jax.Array | None  # [num, B, tile] bool; None = all
  document: jax.Array | None  # [num, B, tile]; None = all are of one


def _mask(rule: Rule, tokens: _Tokens, i: jax.Array, j: jax.Array) -> jax.Array:
  """[B, tile, tile] bool: who of tile i sees whom of tile j; B may be 1."""
  offset_T = jnp.arange(rule.tile)
  query_1xTx1 = (i * rule.tile + offset_T)[None, :, None]
  key_1x1xT = (j * rule.tile + offset_T)[None, None]
  mask_BxTxT = jnp.broadcast_to(
    key_1x1xT < rule.length, (1, rule.tile, rule.tile)
  )
  if rule.is_causal:
    mask_BxTxT &= key_1x1xT <= query_1xTx1
  if rule.window:
    here_BxTx1 = tokens.position[i][:, :, None]
    there_Bx1xT = tokens.position[j][:, None, :]
    mask_BxTxT = mask_BxTxT & (here_BxTx1 - there_Bx1xT < rule.window)
  if tokens.document is not None:
    here_BxTx1 = tokens.document[i][:, :, None]
    mask_BxTxT = mask_BxTxT & (here_BxTx1 == tokens.document[j][:, None, :])
  if tokens.seen is not None:
    itself_1xTxT = query_1xTx1 == key_1x1xT
    mask_BxTxT = mask_BxTxT & (tokens.seen[j][:, None, :] | itself_1xTxT)
  return mask_BxTxT


class _Tile(NamedTuple):
  """Scores of one tile, in the shape of the products they are made of.

  Attributes:
    score: float32.
    slope: their derivative by the products of queries and keys; None = 1.
  """

  score: jax.Array
  slope: jax.Array | None


def _scores(rule: Rule, product: jax.Array, mask: jax.Array) -> _Tile:
  """Of the products of a tile of queries and one of keys.

  Args:
    rule: has the cap.
    product: [B, G, R * tile, tile], or with keys first.
    mask: who sees whom, of the same shape; B and G may be 1.
  """
  score = product
  slope = None
  if rule.cap:
    bent = jnp.tanh(score / rule.cap)
    score = rule.cap * bent
    slope = 1 - bent**2

  return _Tile(jnp.where(mask, score, NEGATIVE), slope)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _tiled(
  rule: Rule,
  queries: jax.Array,
  keys: jax.Array,
  values: jax.Array,
  tokens: _Tokens,
) -> jax.Array:
  """What queries bring together, in their shape.

  Args:
    rule: what is the same for all tiles.
    queries: [num, B, G, R * tile, D], scaled.
    keys: [num, B, G, tile, D].
    values: the same.
    tokens: what decides who sees whom.
  """
  return _forward(rule, queries, keys, values, tokens)[0]


def _turned(x: jax.Array) -> jax.Array:
  """Rows as columns: products are fastest of rows with columns."""
  return x.swapaxes(-1, -2)


def _forward(rule, queries, keys, values, tokens):
  columns = _turned(keys)
  heads = queries.shape[-2] // rule.tile  # that share their keys

  def row(_, numbered):
    i, query = numbered

    def visit(j, so_far):
      total, largest, norm = so_far
      product = _product(query, columns[j])
      mask_BxTxT = _mask(rule, tokens, i, j)
      mask = jnp.tile(mask_BxTxT, (1, heads, 1))[:, None]
      score = _scores(rule, product, mask).score
      now = jnp.maximum(largest, score.max(-1, keepdims=True))
      p = jnp.exp(score - now)
      kept = jnp.exp(largest - now)  # of what was summed so far
      total = kept * total + _product(p.astype(values.dtype), values[j])
      norm = kept * norm + p.sum(-1, keepdims=True)
      return total, now, norm

    nothing = jnp.zeros(query.shape, jnp.float32)
    each = jnp.zeros((*query.shape[:-1], 1), jnp.float32)
    start = nothing, each + NEGATIVE, each
    first, end = rule.seen_tiles(i)
    total, largest, norm = jax.lax.fori_loop(first, end, visit, start)
    mixed = (total / norm).astype(values.dtype)
    return None, (mixed, largest + jnp.log(norm))

  numbered = jnp.arange(rule.num_tiles), queries
  _, (mixed, log_norm) = jax.lax.scan(row, None, numbered)
  return mixed, (queries, keys, values, tokens, mixed, log_norm)


def _backward(rule, residuals, d_mixed):
  queries, keys, values, tokens, mixed, log_norm = residuals
  columns = _turned(keys)
  heads = queries.shape[-2] // rule.tile  # that share their keys

  def row(so_far, numbered):
    i, query, mixed, log_norm, d_mixed = numbered
    # What a row's scores have in common falls out of the softmax's derivative.
    common = d_mixed.astype(jnp.float32) * mixed.astype(jnp.float32)
    common = _turned(common.sum(-1, keepdims=True))
    log_norm = _turned(log_norm)
    query_columns = _turned(query)
    d_columns = _turned(d_mixed)

    # Everything of a tile has a row for each key, a column for each query.
    def visit(j, so_far):
      d_query, d_keys, d_values = so_far
      product = _product(keys[j], query_columns)
      mask_BxTxT = _turned(_mask(rule, tokens, i, j))
      mask = jnp.tile(mask_BxTxT, (1, 1, heads))[:, None]
      tile = _scores(rule, product, mask)
      p = jnp.exp(tile.score - log_norm)
      d_p = _product(values[j], d_columns)
      d_score = p * (d_p - common)
      if tile.slope is not None:
        d_score *= tile.slope

      d_score = d_score.astype(keys.dtype)
      d_query += _product(columns[j], d_score)
      d_keys = d_keys.at[j].add(_product(d_score, query))
      d_value = _product(p.astype(values.dtype), d_mixed)
      return d_query, d_keys, d_values.at[j].add(d_value)

    start = zeros(query_columns), *so_far
    first, end = rule.seen_tiles(i)
    d_query, *so_far = jax.lax.fori_loop(first, end, visit, start)
    return tuple(so_far), _turned(d_query).astype(query.dtype)

  def zeros(x: jax.Array) -> jax.Array:
    return jnp.zeros(x.shape, jnp.float32)

  rows = jnp.arange(rule.num_tiles), queries, mixed, log_norm, d_mixed
  start = zeros(keys), zeros(values)
  (d_keys, d_values), d_queries = jax.lax.scan(row, start, rows)
  d_keys = d_keys.astype(keys.dtype)
  return d_queries, d_keys, d_values.astype(values.dtype), None


_tiled.defvjp(_forward, _backward)
