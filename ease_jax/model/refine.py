"""Iterative refinement: the same stack again, with what it ended on."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ease_jax.model import layers
from ease_jax.model.body import Read, Through, first_state
from ease_jax.model.stack import Stack

STD = 0.02  # of first states, as of the embeddings they are added to


class Refine(Stack):
  """h[s] = stack(inject(x, z[s-1])), z[s] = h[s]; one state per position.

  With z added and detached, and a loss at each segment's end, this is IRT.
  Concatenation and projection is how recurrent-depth models inject
  (Geiping et al. 2502.05171).
  """

  def setup_carry(self) -> None:
    c, dtype = self.cfg, jnp.dtype(self.cfg.dtype)
    if c.carry_init == 'learned':
      init = nn.initializers.normal(STD)
      self.first = self.param('first', init, (c.dim,), jnp.float32)
    if c.carry_inject != 'add':
      self.inject = layers.Linear(c.dim, dtype)

  def init_carry(
    self, x_BxTxD: jax.Array, position_BxT: jax.Array, key: jax.Array
  ) -> Any:
    if self.cfg.carry_init == 'learned':
      first = self.first.astype(x_BxTxD.dtype)[None, None]
      return jnp.broadcast_to(first, x_BxTxD.shape)
    if self.cfg.carry_init == 'fixed':
      key = jax.random.key(0)
    return first_state(self.cfg.carry_init, x_BxTxD, position_BxT, key, STD)

  def _injected(self, x_BxTxD: jax.Array, z_BxTxD: jax.Array) -> jax.Array:
    if self.cfg.carry_inject == 'add':
      return x_BxTxD + z_BxTxD
    out_BxTxD = self.inject(jnp.concatenate([x_BxTxD, z_BxTxD], -1))
    if self.cfg.carry_inject == 'concat':
      return out_BxTxD
    return x_BxTxD + nn.sigmoid(out_BxTxD) * z_BxTxD  # gate

  def segment(
    self, x_BxTxD: jax.Array, carry: Any, through: Through, read: Read
  ) -> Any:
    h_BxTxD = self._injected(x_BxTxD, carry)
    return super().segment(h_BxTxD, None, through, read)
