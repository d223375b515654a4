"""Attention: where tokens stand and what they bring together."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.core.block import KERNELS
from ease_jax.core.spec import ModelConfig

NEGATIVE = -1e30  # finite: a fully masked row stays free of NaN

Turn = tuple[jax.Array, jax.Array]  # sine, cosine: [B, T, 1, half a head]
KV = tuple[jax.Array, jax.Array]  # keys, values: [B, T, G, D / H] each
Look = Callable[[jax.Array], jax.Array]  # queries [B, T, H, D/H] -> [B, T, D]


class Past(NamedTuple):
  """Earlier keys and values of some rows, in the layout of a cache."""

  key_BxGxCxD: jax.Array
  value_BxGxCxD: jax.Array
  mask_BxTxC: jax.Array  # bool: who sees them


def positions(length: int) -> jax.Array:
  """[1, T]: windows start at position 0 in all rows."""
  return jnp.arange(length)[None]


class Rotation(NamedTuple):
  """Sines and cosines of positions, as layers see them."""

  everywhere: Turn
  local: Turn  # in local layers, if there are any


def rotation(cfg: ModelConfig, position_BxT: jax.Array) -> Rotation:
  """Sines and cosines of all positions, computed once for all layers.

  B may be 1 where all rows stand at the same positions.
  """
  spec = cfg.block.attention
  everywhere = _turn(cfg, position_BxT, spec.rope_base, spec.rope_factors)
  if not spec.global_every:
    return Rotation(everywhere, everywhere)
  return Rotation(everywhere, _turn(cfg, position_BxT, spec.local_rope_base))


def _turn(
  cfg: ModelConfig,
  position_BxT: jax.Array,
  base: float,
  factors: Sequence[float] = (),
) -> Turn:
  half = cfg.rope_dim // 2
  exponent = -jnp.arange(half, dtype=jnp.float32) / half
  frequency = base**exponent
  if factors:
    frequency /= jnp.asarray(factors, jnp.float32)
  angle = position_BxT[:, :, None, None] * frequency[None, None, None, :]
  return jnp.sin(angle), jnp.cos(angle)


def rotate(x_BxTxHxD: jax.Array, turn: Turn) -> jax.Array:
  """Rotary position embedding (Su et al. 2104.09864), half-split layout.

  Args:
    x_BxTxHxD: queries or keys.
    turn: of as many numbers at the front of each head as shall turn.
  """
  sin, cos = turn
  width = 2 * sin.shape[-1]
  a, b = jnp.split(x_BxTxHxD[..., :width].astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
  turned = turned.astype(x_BxTxHxD.dtype)
  if width == x_BxTxHxD.shape[-1]:
    return turned
  return jnp.concatenate([turned, x_BxTxHxD[..., width:]], -1)


class Scoring(NamedTuple):
  """What is made of products of queries and keys.

  Attributes:
    scale: they are multiplied with it.
    cap: a soft limit of them, tanh(score / cap) * cap; 0 = none.
    kernel: what makes it among whole windows, of `core.block.KERNELS`.
  """

  scale: float
  cap: float
  kernel: str = KERNELS[0]


def scoring(cfg: ModelConfig) -> Scoring:
  """That of a model's layers."""
  spec = cfg.block.attention
  width = spec.query_width or cfg.head_dim
  return Scoring(width**-0.5, spec.score_cap, spec.kernel)


def attention(
  q_BxTxHxD: jax.Array,
  kv: KV,
  mask_BxTxT: jax.Array,
  scoring: Scoring,
  past: Past | None = None,
) -> jax.Array:
  """Softmax attention with G groups of K/V heads, [B, T, D].

  Scores and softmax are float32.

  Args:
    q_BxTxHxD: queries.
    kv: keys and values of the same tokens.
    mask_BxTxT: which of them each token sees; B may be 1.
    scoring: what products of queries and keys become.
    past: earlier keys and values of the same rows, from a cache.
  """
  k_BxTxGxD, v_BxTxGxD = kv
  B, T, H, D = q_BxTxHxD.shape
  G = k_BxTxGxD.shape[2]
  q_BxGxRxTxD = q_BxTxHxD.reshape(B, T, G, H // G, D).transpose(0, 2, 3, 1, 4)
  # K transposed beforehand: the product runs three times as fast on CPUs.
  k_BxGxDxT = k_BxTxGxD.transpose(0, 2, 3, 1)
  v_BxGxTxD = v_BxTxGxD.transpose(0, 2, 1, 3)
  q_BxGxNxD = (q_BxGxRxTxD * scoring.scale).reshape(B, G, -1, D)

  # Sums in float32: what is cached and what is not must not round apart.
  product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
  score = product(q_BxGxNxD, k_BxGxDxT)
  mask = mask_BxTxT
  if past is not None:
    earlier = jnp.einsum(
      'bgnd,bgcd->bgnc',
      q_BxGxNxD,
      past.key_BxGxCxD,
      preferred_element_type=jnp.float32,
    )
    score = jnp.concatenate([earlier, score], -1)
    mask = jnp.broadcast_to(mask, (B, *mask.shape[1:]))
    mask = jnp.concatenate([past.mask_BxTxC, mask], -1)

  if scoring.cap:
    score = scoring.cap * jnp.tanh(score / scoring.cap)
  score = score.reshape(B, G, H // G, T, -1)
  score = jnp.where(mask[:, None, None], score, NEGATIVE)
  p = jax.nn.softmax(score, axis=-1).astype(v_BxTxGxD.dtype)
  p = p.reshape(B, G, (H // G) * T, -1)

  mixed_BxGxNxD = product(p[..., -T:], v_BxGxTxD)
  if past is not None:
    mixed_BxGxNxD += product(p[..., :-T], past.value_BxGxCxD)
  mixed_BxGxRxTxD = mixed_BxGxNxD.astype(p.dtype).reshape(B, G, H // G, T, D)
  return mixed_BxGxRxTxD.transpose(0, 3, 1, 2, 4).reshape(B, T, H * D)
