"""HRM: a slow and a fast state that refine each other (2506.21734).

N cycles of T updates of the low state and one of the high state:

  low <- L(low + high + x), T times;  high <- H(high + low);  read high

Gradients reach the last update of each state only (the one-step gradient). As
a language model: causal layers, both states per position, halting per token.
"""

import dataclasses
from typing import Annotated

import flax.linen as nn
import jax

from ease_jax.checks import Depth, OneOf, check_fields, need
from ease_jax.core.grid import Cell, Grid
from ease_jax.core.spec import ModelConfig
from ease_jax.model.kind import Kind
from ease_jax.model.streams import (
  FIRST_STATES,
  first_state,
  summed,
)
from ease_jax.model.walk import RUNNING, State

INPUT = 'x'
LOW = 'low'
HIGH = 'high'


@dataclasses.dataclass(frozen=True)
class HRMSpec:
  """Section `model.hrm`.

  Attributes:
    cycles: N, updates of the high state in a segment.
    cycle_steps: T, updates of the low state in each cycle.
    carry_init: first states: zeros, fixed or random. None is learned, because
      the one-step gradient would never reach it.
  """

  cycles: Depth
  cycle_steps: Depth
  carry_init: Annotated[str, OneOf(FIRST_STATES)]

  def __post_init__(self):
    check_fields('model.hrm', self)


def schedule(cfg: ModelConfig) -> Grid:
  """Blocks 0 to L-1 are the low module, L to 2L-1 the high one."""
  spec: HRMSpec = cfg.options
  _check(cfg)
  low = _module(range(cfg.num_layers), (LOW, HIGH, INPUT), LOW)
  high = _module(range(cfg.num_layers, 2 * cfg.num_layers), (HIGH, LOW), HIGH)

  cycle = low * spec.cycle_steps + high
  early = _constant(cycle * (spec.cycles - 1) + low * (spec.cycle_steps - 1))
  last = dataclasses.replace(high[-1], readout=0)
  return Grid((*early, *low, *high[:-1], last), cfg.segments)


def _module(
  blocks: range, reads: tuple[str, ...], writes: str
) -> tuple[Cell, ...]:
  cells = [Cell(block) for block in blocks]
  cells[0] = dataclasses.replace(cells[0], reads=reads)
  cells[-1] = dataclasses.replace(cells[-1], writes=(writes,))
  return tuple(cells)


def _constant(cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
  return tuple(dataclasses.replace(cell, grad=False) for cell in cells)


def _check(cfg: ModelConfig) -> None:
  need(
    cfg.readouts in ((), (cfg.num_layers,)),
    f'model.readouts={cfg.readouts} does not fit model.body=hrm, which is '
    'read at the end of a segment only; use ()',
  )
  need(
    cfg.carry_backprop == 1,
    f'model.carry_backprop={cfg.carry_backprop} does not fit model.body=hrm, '
    'whose gradient is of one step; use 1',
  )


class TwoStates(nn.Module):
  """The input and both states; what a cell reads is summed."""

  cfg: ModelConfig

  def start(
    self, x_BxTxD: jax.Array, position_BxT: jax.Array, key: jax.Array
  ) -> State:
    kind = self.cfg.options.carry_init
    if kind == 'fixed':
      key = jax.random.key(0)
    low_key, high_key = jax.random.split(key)

    def first(key: jax.Array) -> jax.Array:
      return first_state(kind, x_BxTxD, position_BxT, key, 1.0)

    return {
      RUNNING: x_BxTxD,
      INPUT: x_BxTxD,
      LOW: first(low_key),
      HIGH: first(high_key),
    }

  def combine(self, cell: Cell, state: State) -> jax.Array:
    return summed(cell, state)

  def flops(self, cell: Cell) -> float:
    del cell
    return 0.0


HRM = Kind('hrm', schedule, TwoStates, HRMSpec, unit_embedding=True)
