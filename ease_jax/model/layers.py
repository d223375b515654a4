"""The pieces of a decoder layer: norm, rotary positions, attention, MLP.

A `Block` is two functions: `kv` projects states to keys and values, `attend`
moves states through the layer given keys and values. The parallel pass, the
exit-consistent pass and cached decoding are three ways of calling these two,
so they cannot drift apart.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ease_jax.config import ModelConfig

NEGATIVE = -1e30  # finite: a fully masked row stays free of NaN


def causal_mask(length: int) -> jax.Array:
  """[1, T, T] bool: query t sees keys 0..t."""
  return jnp.tril(jnp.ones((length, length), bool))[None]


class Linear(nn.Module):
  """A bias-free Dense on [..., D] that multiplies plain matrices.

  XLA's CPU gradient of a product with a three-dimensional operand takes 1.6
  to 2.5 times as long as that of the flattened one.
  """

  features: int
  dtype: Any
  scale: float = 1.0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = nn.initializers.variance_scaling(self.scale, 'fan_in', 'normal')
    kernel = self.param(
      'kernel', init, (x.shape[-1], self.features), jnp.float32
    )
    flat = x.reshape(-1, x.shape[-1]) @ kernel.astype(self.dtype)
    return flat.reshape(*x.shape[:-1], self.features)


class RMSNorm(nn.Module):
  """x / rms(x) * scale over the last axis, computed in float32."""

  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = self.param(
      'scale', nn.initializers.ones, (x.shape[-1],), jnp.float32
    )
    x = x.astype(jnp.float32)
    x *= jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
    return (x * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(self.dtype)


Rotation = tuple[jax.Array, jax.Array]  # sine, cosine: [B, T, 1, D / 2H]
KV = tuple[jax.Array, jax.Array]  # keys, values: [B, T, Hkv, D/H] each


class Past(NamedTuple):
  """Earlier keys and values of some rows, in the layout of a cache."""

  key_BxGxCxD: jax.Array
  value_BxGxCxD: jax.Array
  mask_BxTxC: jax.Array
  live: jax.Array | None = None  # () bool: whether anybody reads the result


def positions(length: int) -> jax.Array:
  """[1, T]: windows start at position 0 in all rows."""
  return jnp.arange(length)[None]


def rotation(cfg: ModelConfig, position_BxT: jax.Array) -> Rotation:
  """Sines and cosines of all positions, computed once for all layers.

  B may be 1 where all rows stand at the same positions.
  """
  half = cfg.head_dim // 2
  frequency = cfg.rope_base ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = position_BxT[:, :, None, None] * frequency[None, None, None, :]
  return jnp.sin(angle), jnp.cos(angle)


def rotate(x_BxTxHxD: jax.Array, rotation: Rotation) -> jax.Array:
  """Rotary position embedding (Su et al. 2104.09864), half-split layout."""
  sin, cos = rotation
  a, b = jnp.split(x_BxTxHxD.astype(jnp.float32), 2, axis=-1)
  out = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
  return out.astype(x_BxTxHxD.dtype)


def attention(
  q_BxTxHxD: jax.Array,
  kv: KV,
  mask_BxTxT: jax.Array,
  past: tuple[Past, ...] = (),
) -> jax.Array:
  """Softmax attention with G groups of K/V heads; softmax in float32.

  Args:
    q_BxTxHxD: queries.
    kv: keys and values of the same tokens.
    mask_BxTxT: which of them each token sees; B may be 1.
    past: what they see of a cache, in blocks of rows that make up the batch.
      A block that nobody reads costs nothing.
  """
  if not past:
    return _attention(q_BxTxHxD, kv, mask_BxTxT, None)
  out, start = [], 0
  for block in past:
    rows = slice(start, start := start + len(block.key_BxGxCxD))
    args = (
      q_BxTxHxD[rows],
      jax.tree.map(lambda x, rows=rows: x[rows], kv),
      mask_BxTxT[rows if len(mask_BxTxT) > 1 else slice(None)],
      block,
    )
    shape = jax.eval_shape(_attention, *args)
    out.append(
      _attention(*args)
      if block.live is None
      else jax.lax.cond(
        block.live,
        _attention,
        lambda *_, s=shape: jnp.zeros(s.shape, s.dtype),
        *args,
      )
    )
  return jnp.concatenate(out)


def _attention(
  q_BxTxHxD: jax.Array, kv: KV, mask_BxTxT: jax.Array, past: Past | None
) -> jax.Array:
  k_BxTxGxD, v_BxTxGxD = kv
  B, T, H, D = q_BxTxHxD.shape
  G = k_BxTxGxD.shape[2]
  q_BxGxRxTxD = q_BxTxHxD.reshape(B, T, G, H // G, D).transpose(0, 2, 3, 1, 4)
  # K transposed beforehand: the product runs three times as fast on CPUs.
  k_BxGxDxT = k_BxTxGxD.transpose(0, 2, 3, 1)
  v_BxGxTxD = v_BxTxGxD.transpose(0, 2, 1, 3)
  q_BxGxNxD = (q_BxGxRxTxD * D**-0.5).reshape(B, G, -1, D)
  # Sums in float32: what is cached and what is not must not round apart.
  product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
  score, mask = product(q_BxGxNxD, k_BxGxDxT), mask_BxTxT
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
  score = score.reshape(B, G, H // G, T, -1)
  score = jnp.where(mask[:, None, None], score, NEGATIVE)
  p = jax.nn.softmax(score, axis=-1).astype(v_BxTxGxD.dtype)
  p = p.reshape(B, G, (H // G) * T, -1)
  out_BxGxNxD = product(p[..., -T:], v_BxGxTxD)
  if past is not None:
    out_BxGxNxD += product(p[..., :-T], past.value_BxGxCxD)
  out_BxGxRxTxD = out_BxGxNxD.astype(p.dtype).reshape(B, G, H // G, T, D)
  return out_BxGxRxTxD.transpose(0, 3, 1, 2, 4).reshape(B, T, H * D)


class MLP(nn.Module):
  """GELU or SwiGLU feed-forward network."""

  cfg: ModelConfig

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    c, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
    up = Linear(c.mlp_dim, dtype, name='up')(x)
    if c.mlp == 'swiglu':
      up *= nn.silu(Linear(c.mlp_dim, dtype, name='gate')(x))
    else:
      up = nn.gelu(up)
    return Linear(c.dim, dtype, 0.5 / c.num_layers, name='down')(up)


class Block(nn.Module):
  """One layer. See the module docstring for `kv` and `attend`.

  Pre-norm: h += branch(norm(h)). Post-norm: h = norm(h + branch(h)), which
  keeps the size of states that are summed again and again.
  """

  cfg: ModelConfig

  def setup(self):
    c, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
    kv_dim = c.num_kv_heads * c.head_dim
    self.attention_norm = RMSNorm(dtype)
    self.mlp_norm = RMSNorm(dtype)
    self.query = Linear(c.dim, dtype)
    self.key = Linear(kv_dim, dtype)
    self.value = Linear(kv_dim, dtype)
    self.out = Linear(c.dim, dtype, 0.5 / c.num_layers)
    self.mlp = MLP(c)
    self.drop = nn.Dropout(c.dropout)

  def _pre(self, norm: RMSNorm, h_BxTxD: jax.Array) -> jax.Array:
    return norm(h_BxTxD) if self.cfg.block_norm == 'pre' else h_BxTxD

  def _post(self, norm: RMSNorm, h_BxTxD: jax.Array) -> jax.Array:
    return norm(h_BxTxD) if self.cfg.block_norm == 'post' else h_BxTxD

  def _heads(self, x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-1], -1, self.cfg.head_dim)

  def kv(self, h_BxTxD: jax.Array, rotation: Rotation) -> KV:
    """Rotated keys and values of this layer, each [B, T, Hkv, D/H]."""
    x = self._pre(self.attention_norm, h_BxTxD)
    key = rotate(self._heads(self.key(x)), rotation)
    return key, self._heads(self.value(x))

  def attend(
    self,
    h_BxTxD: jax.Array,
    kv: KV,
    mask_BxTxT: jax.Array,
    rotation: Rotation,
    deterministic: bool = True,
    past: tuple[Past, ...] = (),
  ) -> jax.Array:
    """States after this layer, given the keys and values it may look at."""
    query = self._heads(self.query(self._pre(self.attention_norm, h_BxTxD)))
    query = rotate(query, rotation)
    mixed = self.out(attention(query, kv, mask_BxTxT, past))
    h_BxTxD += self.drop(mixed, deterministic=deterministic)
    h_BxTxD = self._post(self.attention_norm, h_BxTxD)
    x = self.mlp(self._pre(self.mlp_norm, h_BxTxD))
    h_BxTxD += self.drop(x, deterministic=deterministic)
    return self._post(self.mlp_norm, h_BxTxD)

  def __call__(
    self,
    h_BxTxD: jax.Array,
    mask_BxTxT: jax.Array,
    rotation: Rotation,
    deterministic: bool = True,
  ) -> jax.Array:
    kv = self.kv(h_BxTxD, rotation)
    return self.attend(h_BxTxD, kv, mask_BxTxT, rotation, deterministic)
