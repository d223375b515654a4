"""HRM: a slow and a fast state that refine each other (2506.21734).

N cycles of T updates of the low state and one of the high state:

  low <- L(low + high + x), T times;  high <- H(high + low);  read high

Gradients reach the last updates only: one of each state in HRM (the one-step
gradient), those of the last cycle in TRM (2510.04871), whose two states share
one network. HRM-Text (2605.20613) starts the high state as the input, which
the low one then meets through it alone, and has one segment. As a language
model: causal layers, both states per position.
"""

import dataclasses
from typing import Annotated

import flax.linen as nn
import jax

from ease_jax.checks import Depth, OneOf, check_fields, need
from ease_jax.core.grid import Cell, Grid
from ease_jax.core.spec import ModelConfig
from ease_jax.model.kind import Kind, Reach
from ease_jax.model.layers import RMSNorm
from ease_jax.model.streams import (
  FIRST_STATES,
  OF_INPUT,
  copied,
  first_state,
  summed,
)
from ease_jax.model.walk import RUNNING, Run, State

INPUT = 'x'
LOW = 'low'
HIGH = 'high'


@dataclasses.dataclass(frozen=True)
class HRMSpec:
  """Section `model.hrm`.

  Attributes:
    cycles: N, updates of the high state in a segment.
    cycle_steps: T, updates of the low state in each cycle.
    shared: whether one module updates both states.
    backprop: updates of a state at the end of a segment that gradients reach.
    carry_init: first states: zeros, fixed or random; input = the high state is
      the input and the low one fixed, and no update reads the input. None is
      learned, because the one-step gradient would never reach it.
    carry_norm: whether states are normed (RMSNorm, one for each) when read.
    reached: of the updates of `backprop` those that gradients reach in this
      program, no field of the config; 0 = all of them.
  """

  cycles: Depth
  cycle_steps: Depth
  shared: bool
  backprop: Depth
  carry_init: Annotated[str, OneOf((*FIRST_STATES, OF_INPUT))]
  carry_norm: bool
  reached: int = 0

  def __post_init__(self):
    check_fields('model.hrm', self)
    need(
      self.backprop <= self.updates,
      f'model.hrm.backprop={self.backprop} is more than the {self.updates} '
      'updates that model.hrm.cycles and cycle_steps make; lower it',
    )
    unlearned = self.updates - self.cycle_steps
    need(
      self.carry_init != OF_INPUT or self.backprop >= unlearned,
      f'model.hrm.backprop={self.backprop} ends behind the first cycle, where '
      'alone model.hrm.carry_init=input is read, so that embeddings would not '
      f'learn; use {unlearned} or more',
    )

  @property
  def updates(self) -> int:
    """Of states, in a segment."""
    return self.cycles * (self.cycle_steps + 1)

  @property
  def is_high_N(self) -> tuple[bool, ...]:
    """Whether each update of a segment is one of the high state."""
    return ((False,) * self.cycle_steps + (True,)) * self.cycles

  @property
  def learns_N(self) -> tuple[bool, ...]:
    """Whether gradients reach each update of a segment.

    In a warm-up those of the high state come first, but for one of the low
    one: H has min(its own, reached - 1) of them (HRM-Text, 2605.20613).
    """
    own_high = sum(self.is_high_N[-self.backprop :])
    reached = self.reached or self.backprop
    high = max(1, min(own_high, reached - 1))
    left = {True: high, False: reached - high}
    learns: list[bool] = []
    for is_high in reversed(self.is_high_N):
      learns.insert(0, left[is_high] > 0)
      left[is_high] -= 1
    return tuple(learns)


def schedule(cfg: ModelConfig) -> Grid:
  """Blocks 0 to L-1 are the low module, L to 2L-1 the high one, if it has any.

  The last of them is read.
  """
  spec: HRMSpec = cfg.options
  _check(cfg)
  sees_input = spec.carry_init != OF_INPUT
  reads = (LOW, HIGH, INPUT) if sees_input else (LOW, HIGH)
  low = _module(range(cfg.num_layers), reads, LOW)
  first_high = 0 if spec.shared else cfg.num_layers
  blocks = range(first_high, first_high + cfg.num_layers)
  high = _module(blocks, (HIGH, LOW), HIGH)

  cells: list[Cell] = []
  for is_high, learns in zip(spec.is_high_N, spec.learns_N):
    module = high if is_high else low
    cells += module if learns else _constant(module)
  cells[-1] = dataclasses.replace(cells[-1], readout=0)
  return Grid(tuple(cells), cfg.segments)


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
    'whose gradient ends in its segment; use 1, and model.hrm.backprop',
  )


class TwoStates(nn.Module):
  """The input and both states; what a cell reads is summed."""

  cfg: ModelConfig

  def setup(self):
    if self.cfg.options.carry_norm:
      self.norms = {name: RMSNorm(self.cfg) for name in (LOW, HIGH)}

  def start(
    self, x_BxTxD: jax.Array, position_BxT: jax.Array, key: jax.Array
  ) -> State:
    kind = self.cfg.options.carry_init
    if kind in ('fixed', OF_INPUT):
      key = jax.random.key(0)
    low_key, high_key = jax.random.split(key)

    def first(key: jax.Array, kind: str) -> jax.Array:
      return first_state(kind, x_BxTxD, position_BxT, key, 1.0)

    if kind == OF_INPUT:
      low = first(low_key, 'fixed')
      return {RUNNING: x_BxTxD, LOW: low, HIGH: x_BxTxD}
    return {
      RUNNING: x_BxTxD,
      INPUT: x_BxTxD,
      LOW: first(low_key, kind),
      HIGH: first(high_key, kind),
    }

  def combine(self, cell: Cell, state: State, run: Run) -> jax.Array:
    del run
    if not self.cfg.options.carry_norm:
      return summed(cell, state)
    normed = {name: self.norms[name](state[name]) for name in (LOW, HIGH)}
    return summed(cell, state | normed)

  def written(self, cell: Cell, state: State, run: Run) -> State:
    del run
    return copied(cell, state)

  def flops(self, cell: Cell) -> float:
    del cell
    return 0.0


def _backprop(cfg: ModelConfig) -> int:
  return cfg.options.backprop


def _cut(cfg: ModelConfig, updates: int) -> ModelConfig:
  options = dataclasses.replace(cfg.options, reached=updates)
  return dataclasses.replace(cfg, options=options)


HRM = Kind(
  'hrm',
  schedule,
  TwoStates,
  HRMSpec,
  unit_embedding=True,
  reach=Reach('model.hrm.backprop', _backprop, _cut),
)
