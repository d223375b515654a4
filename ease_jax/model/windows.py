"""How cells run on whole windows, nobody done and nothing kept."""

from typing import Protocol

import jax

from ease_jax.core.grid import Cell
from ease_jax.core.routers import Taken
from ease_jax.core.spec import ModelConfig
from ease_jax.model import attention as attention_lib
from ease_jax.model import layers
from ease_jax.model.sight import Sight
from ease_jax.model.walk import Call, Layer, Leap, Ran, Run


class Blocks(Protocol):
  """What running a cell asks of a body."""

  cfg: ModelConfig

  def block(self, cell: Cell, run: Run | Leap) -> layers.InRun:
    """The block that a cell calls, as it is in a run."""
    ...


def plain_layer(bound: Blocks, length: int, deterministic: bool) -> Layer:
  """Plain blocks over windows of `length` tokens from position 0.

  Args:
    bound: a bound body.
    length: T.
    deterministic: no dropout.
  """
  attention = bound.cfg.attention
  position_1xT = attention_lib.positions(length)
  rotation = attention_lib.rotation(bound.cfg, position_1xT)

  def layer(call: Call, h_BxTxD: jax.Array) -> Ran:
    block = bound.block(call.cell, call.run)
    if call.taken is not None:
      return taken(block, call.taken, h_BxTxD)
    sight = Sight(attention, block.window, position_1xT, call.seen_BxT)
    return Ran(block(h_BxTxD, sight, rotation, deterministic))

  def taken(block: layers.InRun, some: Taken, h_BxTxD: jax.Array) -> Ran:
    """The block on some tokens, at the positions where they stand."""
    h_NxMxD = some.of(h_BxTxD)
    place = rotation
    position_NxM = position_1xT
    if some.token_NxM is not None:
      place = attention_lib.rotation(bound.cfg, some.token_NxM)
      position_NxM = some.token_NxM
    # They are in order, so that among them causal is causal.
    sight = Sight(attention, block.window, position_NxM, some.seen_NxM)
    new_NxMxD = block(h_NxMxD, sight, place, deterministic)
    return Ran(some.into(h_BxTxD, new_NxMxD))

  return layer
