"""The pieces of a decoder layer: norm, projections, MLP, and the block.

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

from ease_jax.core.block import BlockSpec
from ease_jax.core.freeze import LORA
from ease_jax.core.spec import ModelConfig
from ease_jax.model.attention import (
  KV,
  Look,
  Rotation,
  rotate,
  scoring,
)
from ease_jax.model.flash import among
from ease_jax.model.own import PLAIN, Own, first_products, product
from ease_jax.model.parameter import parameter
from ease_jax.model.sight import Sight

Dtype = str | jnp.dtype
# A module of a block that is called with a run.
OfRuns = Callable[[ModelConfig], Callable[..., Own]]


class Linear(nn.Module):
  """A Dense on [..., D]."""

  features: int
  dtype: Dtype
  scale: float = 1.0
  bias: bool = False
  kernel_init: nn.initializers.Initializer | None = None  # None: by `scale`

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    normal = nn.initializers.variance_scaling(self.scale, 'fan_in', 'normal')
    init = self.kernel_init or normal
    shape = x.shape[-1], self.features
    kernel = parameter(self, 'kernel', init, shape)
    y = product(x, kernel.astype(self.dtype))
    if not self.bias:
      return y
    zeros = nn.initializers.zeros
    bias = parameter(self, 'bias', zeros, (self.features,))
    return y + bias.astype(self.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


class RMSNorm(nn.Module):
  """x / rms(x) * scale over the last axis, computed in float32."""

  cfg: ModelConfig

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (x.shape[-1],)
    scale = parameter(self, 'scale', nn.initializers.ones, shape)
    x = x.astype(jnp.float32)
    mean_square = jnp.mean(x * x, -1, keepdims=True)
    x *= jax.lax.rsqrt(mean_square + self.cfg.block.epsilon)
    x *= scale.reshape((1,) * (x.ndim - 1) + (-1,))
    return x.astype(self.cfg.dtype)


class LayerNorm(nn.Module):
  """(x - mean) / deviation * scale + bias over the last axis, in float32."""

  cfg: ModelConfig

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (x.shape[-1],)
    scale = parameter(self, 'scale', nn.initializers.ones, shape)
    bias = parameter(self, 'bias', nn.initializers.zeros, shape)
    x = x.astype(jnp.float32)
    x -= jnp.mean(x, -1, keepdims=True)
    variance = jnp.mean(x * x, -1, keepdims=True)
    x *= jax.lax.rsqrt(variance + self.cfg.block.epsilon)
    rows = (1,) * (x.ndim - 1) + (-1,)
    x = x * scale.reshape(rows) + bias.reshape(rows)
    return x.astype(self.cfg.dtype)


Norm = RMSNorm | LayerNorm


def norm(cfg: ModelConfig) -> Norm:
  """A norm of states, as `model.block.norm_kind` says."""
  return LayerNorm(cfg) if cfg.block.norm_kind == 'layer' else RMSNorm(cfg)


# What the MLP, or its gate, does to each number.
UNITS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'gelu': nn.gelu,
  'gelu_exact': functools.partial(nn.gelu, approximate=False),
  'geglu': nn.gelu,
  'swiglu': nn.silu,
}


class MLP(nn.Module):
  """Feed-forward network, with or without a gate."""

  cfg: ModelConfig
  depth: int  # layers that add to one state

  @nn.compact
  def __call__(self, x: jax.Array, own: Own = PLAIN) -> jax.Array:
    spec = self.cfg.block.mlp
    dtype = jnp.dtype(self.cfg.dtype)
    up = Linear(spec.dim, dtype, bias=spec.bias, name='up')(x)
    up = own.made('up', x, up)

    if spec.gated:
      gate = Linear(spec.dim, dtype, bias=spec.bias, name='gate')(x)
      up *= UNITS[spec.kind](own.made('gate', x, gate))
    else:
      up = UNITS[spec.kind](up)

    scale = 0.5 / self.depth
    down = Linear(self.cfg.dim, dtype, scale, spec.bias, name='down')(up)
    return own.made('down', up, down)


class Block(nn.Module):
  """One layer: attention, then an MLP, each with a residual branch.

  Norms stand where `model.block.norm` says:

    pre       h += branch(norm(h))
    post      h = norm(h + branch(h)), which keeps the size of states that are
              summed again and again
    branch    h += norm(branch(h)), as in OLMo 2 (2501.00656)
    sandwich  h += norm(branch(norm(h))), as in Gemma 2 (2408.00118)

  With `model.block.parallel` both branches are given the state that comes in.
  """

  cfg: ModelConfig
  depth: int  # layers that add to one state: their branches start smaller
  per_run: OfRuns | None = None  # what it has of its own in each run
  is_local: bool = False  # its positions are those of local layers
  window: int = 0  # tokens that its tokens see, themselves included; 0 = all
  lora_rank: int = 0  # of products beside its matrices; 0 = there are none

  def setup(self):
    c = self.cfg
    dtype = jnp.dtype(c.dtype)
    kv_dim = c.num_kv_heads * c.head_dim
    bias = c.block.attention.qkv_bias
    self.attention_norm = norm(c)
    self.mlp_norm = norm(c)
    if self.spec.norm == 'sandwich':
      self.attention_out_norm = norm(c)
      self.mlp_out_norm = norm(c)
    if self.spec.attention.qk_norm != 'none':
      self.query_norm = RMSNorm(c)
      self.key_norm = RMSNorm(c)
    self.query = Linear(c.heads_dim, dtype, bias=bias)
    self.key = Linear(kv_dim, dtype, bias=bias)
    self.value = Linear(kv_dim, dtype, bias=bias)
    out_bias = c.block.attention.out_bias
    self.out = Linear(c.dim, dtype, 0.5 / self.depth, out_bias)
    self.mlp = MLP(c, self.depth)
    self.drop = nn.Dropout(c.dropout)
    if self.per_run is not None:
      self.of_runs = self.per_run(c)
    if self.lora_rank:
      self.lora = self.param(LORA, first_products, c, self.lora_rank)

  @property
  def spec(self) -> BlockSpec:
    return self.cfg.block

  def _norm(self, branch: str) -> Norm:
    return getattr(self, f'{branch}_norm')

  def _entering(self, branch: str, h_BxTxD: jax.Array, own: Own) -> jax.Array:
    """What a branch is given."""
    if self.spec.norm in ('pre', 'sandwich'):
      h_BxTxD = self._norm(branch)(h_BxTxD)
    return own.entering(branch, h_BxTxD)

  def _leaving(self, branch: str, x_BxTxD: jax.Array, own: Own) -> jax.Array:
    """What a branch adds."""
    if self.spec.norm == 'branch':
      x_BxTxD = self._norm(branch)(x_BxTxD)
    if self.spec.norm == 'sandwich':
      x_BxTxD = self._norm(f'{branch}_out')(x_BxTxD)
    return own.leaving(branch, x_BxTxD)

  def _summed(self, branch: str, h_BxTxD: jax.Array) -> jax.Array:
    """The state when a branch has added to it."""
    return self._norm(branch)(h_BxTxD) if self.spec.norm == 'post' else h_BxTxD

  def _heads(self, x: jax.Array) -> jax.Array:
    return x.reshape(*x.shape[:-1], -1, self.cfg.head_dim)

  def _meeting(
    self, name: str, x_BxTxF: jax.Array, rotation: Rotation
  ) -> jax.Array:
    """Queries or keys as they meet each other: in heads, normed, rotated."""
    normed = self.spec.attention.qk_norm
    if normed == 'all':
      x_BxTxF = self._norm(name)(x_BxTxF)
    x_BxTxHxD = self._heads(x_BxTxF)
    if normed == 'head':
      x_BxTxHxD = self._norm(name)(x_BxTxHxD)
    turn = rotation.local if self.is_local else rotation.everywhere
    return rotate(x_BxTxHxD, turn)

  def own(self, run: jax.Array | np.ndarray | int) -> Own:
    """What it has of its own in a run.

    Args:
      run: what modules of `per_run` are called with.
    """
    own = PLAIN if self.per_run is None else self.of_runs(run)
    return own.beside(self.lora, self.cfg.dtype) if self.lora_rank else own

  @jax.named_scope('attention')
  def kv(self, h_BxTxD: jax.Array, rotation: Rotation, own: Own = PLAIN) -> KV:
    """Rotated keys and values of this layer, each [B, T, G, D / H]."""
    x = self._entering('attention', h_BxTxD, own)
    key = own.made('key', x, self.key(x))
    value = own.made('value', x, self.value(x))
    return self._meeting('key', key, rotation), self._heads(value)

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
    given_BxTxD = h_BxTxD
    with jax.named_scope('attention'):
      x = self._entering('attention', h_BxTxD, own)
      query = own.made('query', x, self.query(x))
      mixed = look(self._meeting('query', query, rotation))
      mixed = own.made('out', mixed, self.out(mixed))
      x = self._leaving('attention', mixed, own)
      h_BxTxD += self.drop(x, deterministic=deterministic)
      h_BxTxD = self._summed('attention', h_BxTxD)

    if not self.spec.parallel:
      given_BxTxD = h_BxTxD
    with jax.named_scope('mlp'):
      x = self._entering('mlp', given_BxTxD, own)
      x = self._leaving('mlp', self.mlp(x, own), own)
      h_BxTxD += self.drop(x, deterministic=deterministic)
      return self._summed('mlp', h_BxTxD)

  def __call__(
    self,
    h_BxTxD: jax.Array,
    sight: Sight,
    rotation: Rotation,
    deterministic: bool = True,
    own: Own = PLAIN,
  ) -> jax.Array:
    """States after this layer where the tokens of windows see each other."""
    kv = self.kv(h_BxTxD, rotation, own)

    def look(query_BxTxHxD: jax.Array) -> jax.Array:
      return among(query_BxTxHxD, kv, sight, scoring(self.cfg))

    return self.attend(h_BxTxD, rotation, look, deterministic, own)


def block_class(cfg: ModelConfig) -> type[Block]:
  """Blocks, or such as are run again in the backward pass."""
  if not cfg.remat:
    return Block
  # static_argnums counts `self`: 4 is `deterministic`.
  return nn.remat(Block, static_argnums=(4,))


class InRun(NamedTuple):
  """A block as it is in one run; its methods are those of the block."""

  block: Block
  own: Own

  @property
  def window(self) -> int:
    return self.block.window

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
    sight: Sight,
    rotation: Rotation,
    deterministic: bool = True,
  ) -> jax.Array:
    return self.block(h_BxTxD, sight, rotation, deterministic, self.own)
