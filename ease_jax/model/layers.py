"""The pieces of a decoder layer: norm, rotary positions, attention, MLP.

A `Block` is two functions: `kv` projects states to keys and values, `attend`
moves states through the layer, looking at keys and values. The parallel pass,
the exit-consistent pass and cached decoding are three ways of calling these
two, so they cannot drift apart.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ease_jax.core.spec import CAUSAL, BlockSpec, ModelConfig
from ease_jax.model.own import PLAIN, Own, product

NEGATIVE = -1e30  # finite: a fully masked row stays free of NaN
EPSILON = 1e-6

Dtype = str | jnp.dtype
Rotation = tuple[jax.Array, jax.Array]  # sine, cosine: [B, T, 1, D / 2H]
KV = tuple[jax.Array, jax.Array]  # keys, values: [B, T, G, D / H] each
Look = Callable[[jax.Array], jax.Array]  # queries [B, T, H, D/H] -> [B, T, D]
# A module of a block that is called with a run.
OfRuns = Callable[[ModelConfig], Callable[..., Own]]


def causal_mask(length: int) -> jax.Array:
  """[1, T, T] bool: query t sees keys 0..t."""
  return jnp.tril(jnp.ones((length, length), bool))[None]


def window_mask(attention: str, length: int) -> jax.Array:
  """[1, T, T] bool: who sees whom in a window without exits."""
  if attention == CAUSAL:
    return causal_mask(length)
  return jnp.ones((1, length, length), bool)


class Linear(nn.Module):
  """A bias-free Dense on [..., D]."""

  features: int
  dtype: Dtype
  scale: float = 1.0
  kernel_init: nn.initializers.Initializer | None = None  # None: by `scale`

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    normal = nn.initializers.variance_scaling(self.scale, 'fan_in', 'normal')
    init = self.kernel_init or normal
    shape = x.shape[-1], self.features
    kernel = self.param('kernel', init, shape, jnp.float32)
    return product(x, kernel.astype(self.dtype))


class RMSNorm(nn.Module):
  """x / rms(x) * scale over the last axis, computed in float32."""

  dtype: Dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (x.shape[-1],)
    scale = self.param('scale', nn.initializers.ones, shape, jnp.float32)
    x = x.astype(jnp.float32)
    x *= jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + EPSILON)
    return (x * scale.reshape((1,) * (x.ndim - 1) + (-1,))).astype(self.dtype)


class Past(NamedTuple):
  """Earlier keys and values of some rows, in the layout of a cache."""

  key_BxGxCxD: jax.Array
  value_BxGxCxD: jax.Array
  mask_BxTxC: jax.Array  # bool: who sees them


def positions(length: int) -> jax.Array:
  """[1, T]: windows start at position 0 in all rows."""
  return jnp.arange(length)[None]


def rotation(cfg: ModelConfig, position_BxT: jax.Array) -> Rotation:
  """Sines and cosines of all positions, computed once for all layers.

  B may be 1 where all rows stand at the same positions.
  """
  half = cfg.head_dim // 2
  exponent = -jnp.arange(half, dtype=jnp.float32) / half
  frequency = cfg.block.attention.rope_base**exponent
  angle = position_BxT[:, :, None, None] * frequency[None, None, None, :]
  return jnp.sin(angle), jnp.cos(angle)


def rotate(x_BxTxHxD: jax.Array, rotation: Rotation) -> jax.Array:
  """Rotary position embedding (Su et al. 2104.09864), half-split layout."""
  sin, cos = rotation
  a, b = jnp.split(x_BxTxHxD.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
  return turned.astype(x_BxTxHxD.dtype)


def attention(
  q_BxTxHxD: jax.Array,
  kv: KV,
  mask_BxTxT: jax.Array,
  past: Past | None = None,
) -> jax.Array:
  """Softmax attention with G groups of K/V heads, [B, T, D].

  Scores and softmax are float32.

  Args:
    q_BxTxHxD: queries.
    kv: keys and values of the same tokens.
    mask_BxTxT: which of them each token sees; B may be 1.
    past: earlier keys and values of the same rows, from a cache.
  """
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

  score = score.reshape(B, G, H // G, T, -1)
  score = jnp.where(mask[:, None, None], score, NEGATIVE)
  p = jax.nn.softmax(score, axis=-1).astype(v_BxTxGxD.dtype)
  p = p.reshape(B, G, (H // G) * T, -1)

  mixed_BxGxNxD = product(p[..., -T:], v_BxGxTxD)
  if past is not None:
    mixed_BxGxNxD += product(p[..., :-T], past.value_BxGxCxD)
  mixed_BxGxRxTxD = mixed_BxGxNxD.astype(p.dtype).reshape(B, G, H // G, T, D)
  return mixed_BxGxRxTxD.transpose(0, 3, 1, 2, 4).reshape(B, T, H * D)


class MLP(nn.Module):
  """GELU or SwiGLU feed-forward network."""

  cfg: ModelConfig
  depth: int  # layers that add to one state

  @nn.compact
  def __call__(self, x: jax.Array, own: Own = PLAIN) -> jax.Array:
    spec = self.cfg.block.mlp
    dtype = jnp.dtype(self.cfg.dtype)
    up = own.made('up', x, Linear(spec.dim, dtype, name='up')(x))

    if spec.kind == 'swiglu':
      gate = Linear(spec.dim, dtype, name='gate')(x)
      up *= nn.silu(own.made('gate', x, gate))
    else:
      up = nn.gelu(up)

    scale = 0.5 / self.depth
    down = Linear(self.cfg.dim, dtype, scale, name='down')(up)
    return own.made('down', up, down)


class Block(nn.Module):
  """One layer: attention, then an MLP, each with a residual branch.

  Pre-norm: h += branch(norm(h)). Post-norm: h = norm(h + branch(h)), which
  keeps the size of states that are summed again and again.
  """

  cfg: ModelConfig
  depth: int  # layers that add to one state: their branches start smaller
  per_run: OfRuns | None = None  # what it has of its own in each run

  def setup(self):
    c = self.cfg
    dtype = jnp.dtype(c.dtype)
    kv_dim = c.num_kv_heads * c.head_dim
    self.attention_norm = RMSNorm(dtype)
    self.mlp_norm = RMSNorm(dtype)
    self.query = Linear(c.dim, dtype)
    self.key = Linear(kv_dim, dtype)
    self.value = Linear(kv_dim, dtype)
    self.out = Linear(c.dim, dtype, 0.5 / self.depth)
    self.mlp = MLP(c, self.depth)
    self.drop = nn.Dropout(c.dropout)
    if self.per_run is not None:
      self.of_runs = self.per_run(c)

  @property
  def spec(self) -> BlockSpec:
    return self.cfg.block

  def _pre(self, norm: RMSNorm, h_BxTxD: jax.Array) -> jax.Array:
    return norm(h_BxTxD) if self.spec.norm == 'pre' else h_BxTxD

  def _post(self, norm: RMSNorm, h_BxTxD: jax.Array) -> jax.Array:
    return norm(h_BxTxD) if self.spec.norm == 'post' else h_BxTxD

  def _heads(self, x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-1], -1, self.cfg.head_dim)

  def own(self, run: jax.Array | np.ndarray | int) -> Own:
    """What it has of its own in a run.

    Args:
      run: what modules of `per_run` are called with.
    """
    return PLAIN if self.per_run is None else self.of_runs(run)

  def kv(self, h_BxTxD: jax.Array, rotation: Rotation, own: Own = PLAIN) -> KV:
    """Rotated keys and values of this layer, each [B, T, G, D / H]."""
    x = own.entering('attention', self._pre(self.attention_norm, h_BxTxD))
    key = own.made('key', x, self.key(x))
    value = own.made('value', x, self.value(x))
    return rotate(self._heads(key), rotation), self._heads(value)

  def attend(
    self,
    h_BxTxD: jax.Array,
    rotation: Rotation,
    look: Look,
    deterministic: bool = True,
    own: Own = PLAIN,
  ) -> jax.Array:
    """States after this layer, [B, T, D].

    Args:
      h_BxTxD: states before it.
      rotation: of their positions.
      look: attends to whatever keys and values the tokens may see.
      deterministic: no dropout.
      own: what the layer has of its own in this run.
    """
    x = own.entering('attention', self._pre(self.attention_norm, h_BxTxD))
    query = self._heads(own.made('query', x, self.query(x)))
    mixed = look(rotate(query, rotation))
    mixed = own.leaving('attention', own.made('out', mixed, self.out(mixed)))
    h_BxTxD += self.drop(mixed, deterministic=deterministic)
    h_BxTxD = self._post(self.attention_norm, h_BxTxD)

    x = own.entering('mlp', self._pre(self.mlp_norm, h_BxTxD))
    x = own.leaving('mlp', self.mlp(x, own))
    h_BxTxD += self.drop(x, deterministic=deterministic)
    return self._post(self.mlp_norm, h_BxTxD)

  def __call__(
    self,
    h_BxTxD: jax.Array,
    mask_BxTxT: jax.Array,
    rotation: Rotation,
    deterministic: bool = True,
    own: Own = PLAIN,
  ) -> jax.Array:
    """States after this layer where tokens see each other by a mask."""
    kv = self.kv(h_BxTxD, rotation, own)

    def look(query_BxTxHxD: jax.Array) -> jax.Array:
      return attention(query_BxTxHxD, kv, mask_BxTxT)

    return self.attend(h_BxTxD, rotation, look, deterministic, own)


class InRun(NamedTuple):
  """A block as it is in one run; its methods are those of the block."""

  block: Block
  own: Own

  def kv(self, h_BxTxD: jax.Array, rotation: Rotation) -> KV:
    return self.block.kv(h_BxTxD, rotation, self.own)

  def attend(
    self,
    h_BxTxD: jax.Array,
    rotation: Rotation,
    look: Look,
    deterministic: bool = True,
  ) -> jax.Array:
    return self.block.attend(h_BxTxD, rotation, look, deterministic, self.own)

  def __call__(
    self,
    h_BxTxD: jax.Array,
    mask_BxTxT: jax.Array,
    rotation: Rotation,
    deterministic: bool = True,
  ) -> jax.Array:
    return self.block(h_BxTxD, mask_BxTxT, rotation, deterministic, self.own)
