"""What a block has beside its matrices, and products of matrices.

LoRA (Hu et al. 2106.09685) is the same in all runs: W x + B A x for each of a
block's matrices, with B = 0 at first. `model.per_run` is what single runs have.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ease_jax.core.freeze import LORA
from ease_jax.core.spec import ModelConfig

LowRank = dict[str, jax.Array]  # into [D, r] and out_of [r, F]


def product(x: jax.Array, kernel_DxF: jax.Array) -> jax.Array:
  """[..., D] times a plain matrix, [..., F].

  XLA's CPU gradient of a product with a three-dimensional operand takes 1.6
  to 2.5 times as long as that of the flattened one.
  """
  flat = x.reshape(-1, x.shape[-1]) @ kernel_DxF
  return flat.reshape(*x.shape[:-1], kernel_DxF.shape[-1])


class Own(NamedTuple):
  """What a block has of its own in one of its runs, in the compute type.

  Attributes:
    low_rank: by the name of a matrix, a product that is added to what it makes.
    scale: by the name of a branch, what its input is multiplied with, [D].
    gain: by the name of a branch, what it adds is multiplied with, [D].
  """

  low_rank: Mapping[str, LowRank] = {}
  scale: Mapping[str, jax.Array] = {}
  gain: Mapping[str, jax.Array] = {}

  def beside(self, products: Mapping[str, LowRank], dtype: str) -> 'Own':
    """With products beside its matrices, and those that it has already."""
    joined = dict(self.low_rank)
    for name, new in products.items():
      into = new['into'].astype(dtype)
      out_of = new['out_of'].astype(dtype)
      if name in joined:
        into = jnp.concatenate([joined[name]['into'], into], 1)
        out_of = jnp.concatenate([joined[name]['out_of'], out_of], 0)
      joined[name] = {'into': into, 'out_of': out_of}
    return self._replace(low_rank=joined)

  def made(self, name: str, x: jax.Array, plain: jax.Array) -> jax.Array:
    """What a matrix makes of x in this run, given what it makes in any."""
    if name not in self.low_rank:
      return plain
    beside = self.low_rank[name]
    return plain + product(product(x, beside['into']), beside['out_of'])

  def entering(self, branch: str, x_BxTxD: jax.Array) -> jax.Array:
    """What a branch is given in this run."""
    return _scaled(x_BxTxD, self.scale.get(branch))

  def leaving(self, branch: str, x_BxTxD: jax.Array) -> jax.Array:
    """What a branch adds in this run."""
    return _scaled(x_BxTxD, self.gain.get(branch))


PLAIN = Own()


def first_products(
  key: jax.Array, cfg: ModelConfig, rank: int
) -> dict[str, LowRank]:
  """Products that are zero, of which half the matrices are not.

  Args:
    key: of that half.
    cfg: a model's shape.
    rank: of the products.
  """
  normal = nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')
  products = {}
  for name, (taken, made) in cfg.matrices.items():
    key, use_key = jax.random.split(key)
    products[name] = {
      'into': normal(use_key, (taken, rank), jnp.float32),
      'out_of': jnp.zeros((rank, made), jnp.float32),
    }
  return products


def merged(params: dict[str, Any]) -> dict[str, Any]:
  """Parameters of a model without LoRA that makes the same of its tokens.

  Args:
    params: of a body whose layers have products beside their matrices, or
      not; W + A B takes the place of both.
  """
  return {
    name: _merged_layer(group) if _has_lora(group) else group
    for name, group in params.items()
  }


def _has_lora(group: Any) -> bool:
  return isinstance(group, dict) and LORA in group


def _merged_layer(layer: dict[str, Any]) -> dict[str, Any]:
  products = layer[LORA]
  kept = {name: part for name, part in layer.items() if name != LORA}
  kept['mlp'] = _summed(kept['mlp'], products)
  return _summed(kept, products)


def _summed(
  group: dict[str, Any], products: Mapping[str, LowRank]
) -> dict[str, Any]:
  """A group in which products are part of the matrices beside them."""
  summed = dict(group)
  for name in set(group) & set(products):
    into = products[name]['into']
    more = jnp.matmul(into, products[name]['out_of'], precision='highest')
    summed[name] = group[name] | {'kernel': group[name]['kernel'] + more}
  return summed


def _scaled(x_BxTxD: jax.Array, factor_D: jax.Array | None) -> jax.Array:
  return x_BxTxD if factor_D is None else x_BxTxD * factor_D[None, None]
