"""The stack: a decoder-only Transformer whose layers can be read out."""

from typing import Any

import jax

from ease_jax.model.body import Body, Read, Through


class Stack(Body):
  """Layers on each other; S = 1, a cell is one layer, nothing is carried."""

  def init_carry(
    self, x_BxTxD: jax.Array, position_BxT: jax.Array, key: jax.Array
  ) -> Any:
    return ()

  def segment(
    self, x_BxTxD: jax.Array, carry: Any, through: Through, read: Read
  ) -> Any:
    h_BxTxD = x_BxTxD
    for i, block in enumerate(self.blocks):
      h_BxTxD = through(i, block, h_BxTxD)
      if i + 1 in self.cfg.readouts:
        h_BxTxD = read(self.cfg.readouts.index(i + 1), h_BxTxD)
    return h_BxTxD
