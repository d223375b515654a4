"""What a readout before the last has of its own, before its norm and head.

Layers in the middle of a model were made for the layers behind them, not for
the head. An adapter turns their states into those that the head knows. Each
kind adds to the state, in proportion to its size, and adds nothing at first, so
that a model starts as it was.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from ease_jax.core.freeze import ADAPTER, OWN_HEAD, OWN_NORM, SHARED_NORM
from ease_jax.core.spec import HEAD, MAP, ModelConfig
from ease_jax.model.layers import Linear

ZEROS = nn.initializers.zeros


class Map(nn.Module):
  """h + h W, any linear map of the state (Belrose et al. 2303.08112)."""

  cfg: ModelConfig

  @nn.compact
  def __call__(self, h_BxTxD: jax.Array) -> jax.Array:
    c = self.cfg
    linear = Linear(c.dim, jnp.dtype(c.dtype), kernel_init=ZEROS, name='linear')
    return h_BxTxD + linear(h_BxTxD)


class LowRank(nn.Module):
  """h + h A B, of rank R (Hu et al. 2106.09685)."""

  cfg: ModelConfig

  @nn.compact
  def __call__(self, h_BxTxD: jax.Array) -> jax.Array:
    c = self.cfg
    dtype = jnp.dtype(c.dtype)
    inner_BxTxR = Linear(c.readout_dim, dtype, name='down')(h_BxTxD)
    up = Linear(c.dim, dtype, kernel_init=ZEROS, name='up')
    return h_BxTxD + up(inner_BxTxR)


class MLP(nn.Module):
  """h + |h| W gelu(V h / |h|), with |h| the root of the mean square.

  The MLP exit of EE-Tuning (Pan et al. 2402.00518).
  """

  cfg: ModelConfig

  @nn.compact
  def __call__(self, h_BxTxD: jax.Array) -> jax.Array:
    c = self.cfg
    dtype = jnp.dtype(c.dtype)
    size_BxTx1 = size(h_BxTxD, c.block.epsilon)
    unit_BxTxD = (h_BxTxD.astype(jnp.float32) / size_BxTx1).astype(dtype)

    inner_BxTxR = nn.gelu(Linear(c.readout_dim, dtype, name='up')(unit_BxTxD))
    down = Linear(c.dim, dtype, kernel_init=ZEROS, name='down')
    return h_BxTxD + size_BxTx1.astype(dtype) * down(inner_BxTxR)


def size(h: jax.Array, epsilon: float) -> jax.Array:
  """Root of the mean square over the last axis, [..., 1] float32."""
  h = h.astype(jnp.float32)
  return jnp.sqrt(jnp.mean(h * h, -1, keepdims=True) + epsilon)


KINDS: dict[str, Callable[..., nn.Module]] = {
  MAP: Map,
  'low_rank': LowRank,
  'mlp': MLP,
}


class Adapter(nn.Module):
  """The config's `state_adapters`, one after the other."""

  cfg: ModelConfig

  @nn.compact
  def __call__(self, h_BxTxD: jax.Array) -> jax.Array:
    for kind in self.cfg.state_adapters:
      h_BxTxD = KINDS[kind](self.cfg, name=kind)(h_BxTxD)
    return h_BxTxD


def norm_names(cfg: ModelConfig, readouts: int) -> list[str]:
  """Parameters of the norms of a segment's readouts; one = of all."""
  if cfg.readout_norm == 'shared':
    return [SHARED_NORM]
  return [f'{OWN_NORM}{r}' for r in range(readouts)]


def adapter_names(cfg: ModelConfig, readouts: int) -> list[str]:
  """Parameters of what changes single states of readouts before the last."""
  early = readouts - 1 if cfg.state_adapters else 0
  return [f'{ADAPTER}{r}' for r in range(early)]


def head_names(cfg: ModelConfig, readouts: int) -> list[str]:
  """Unembeddings of readouts before the last."""
  early = readouts - 1 if HEAD in cfg.readout_adapters else 0
  return [f'{OWN_HEAD}{r}' for r in range(early)]
