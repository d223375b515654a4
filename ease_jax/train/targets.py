"""Targets: what a readout is trained to say.

A target is prepared once for a batch, without a gradient and before the
segments are run, so that it may be the label, the last readout's distribution
or a teacher's.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jax

from ease_jax.model import Body
from ease_jax.model.readout import linear_cross_entropy

Prepared = Any  # tree of [B, T, ...] arrays


# tokens, targets (the true next ones) int32 and mask float32, each [B, T].
Batch = Mapping[str, jax.Array]


class Target(Protocol):
  """A loss of a readout; stateless, one instance for all."""

  def prepare(self, bound: Body, batch: Batch) -> Prepared:
    """What the loss needs of a batch; gradients stop here."""
    ...

  def loss(
    self,
    normed_NxD: jax.Array,
    w_VxD: jax.Array,
    prepared_N: Prepared,
    weight_N: jax.Array,
  ) -> jax.Array:
    """Weighted sum of the tokens' losses at one readout, nats.

    Args:
      normed_NxD: its normed states.
      w_VxD: the unembedding.
      prepared_N: what `prepare` made, of the same tokens.
      weight_N: weight of each token; 0 must contribute nothing.
    """
    ...


class Label:
  """The true next token: cross-entropy."""

  def prepare(self, bound: Body, batch: Batch) -> Prepared:
    del bound
    return batch['targets']

  def loss(
    self,
    normed_NxD: jax.Array,
    w_VxD: jax.Array,
    prepared_N: Prepared,
    weight_N: jax.Array,
  ) -> jax.Array:
    return linear_cross_entropy(normed_NxD, w_VxD, prepared_N, weight_N)


TARGETS: dict[str, Target] = {'label': Label()}
