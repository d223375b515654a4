"""How cells run on whole windows, nobody done and nothing kept."""

from typing import Protocol

import jax

from ease_jax.core.grid import Cell
from ease_jax.core.routers import Taken
from ease_jax.core.spec import ModelConfig
from ease_jax.model import attention as attention_lib
from ease_jax.model import layers
from ease_jax.model.sight import Places, sight_of
from ease_jax.model.walk import Call, Layer, Leap, Ran, Run


class Blocks(Protocol):
  """What running a cell asks of a body."""

  cfg: ModelConfig

  def block(self, cell: Cell, run: Run | Leap) -> layers.InRun:
    """The block that a cell calls, as it is in a run."""
    ...


def plain_layer(bound: Blocks, places: Places, deterministic: bool) -> Layer:
  """Plain blocks over whole windows.

  Args:
    bound: a bound body.
    places: of the tokens.
    deterministic: no dropout.
  """
  rotation = attention_lib.rotation(bound.cfg, places.position_BxT)

  def layer(call: Call, h_BxTxD: jax.Array) -> Ran:
    block = bound.block(call.cell, call.run)
    if call.taken is not None:
      return taken(block, call.taken, h_BxTxD)
    sight = sight_of(bound.cfg, block.window, places, call.seen_BxT)
    return Ran(block(h_BxTxD, sight, rotation, deterministic))

  def taken(block: layers.InRun, some: Taken, h_BxTxD: jax.Array) -> Ran:
    """The block on some tokens, at the positions where they stand."""
    h_NxMxD = some.of(h_BxTxD)
    turn = rotation
    there = places.of(some)
    if there is not places:
      turn = attention_lib.rotation(bound.cfg, there.position_BxT)
    # They are in order, so that among them causal is causal.
    sight = sight_of(bound.cfg, block.window, there, some.seen_NxM)
    new_NxMxD = block(h_NxMxD, sight, turn, deterministic)
    return Ran(some.into(h_BxTxD, new_NxMxD))

  return layer
