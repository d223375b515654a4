"""What a block has of its own in one of its runs, and products of matrices."""

from collections.abc import Mapping
from typing import NamedTuple

import jax

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


def _scaled(x_BxTxD: jax.Array, factor_D: jax.Array | None) -> jax.Array:
  return x_BxTxD if factor_D is None else x_BxTxD * factor_D[None, None]
