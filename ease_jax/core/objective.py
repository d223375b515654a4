"""What the grid loss weighs, when, and on which share of the tokens."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ease_jax.checks import need, one_of
from ease_jax.core.grid import Grid
from ease_jax.core.signals import SIGNALS
from ease_jax.core.weights import (
  SCHEDULES,
  TIMELESS,
  WEIGHTS,
  schedule_factors,
)

NORMALIZATIONS = ('none', 'sum_to_one')


@dataclasses.dataclass(frozen=True)
class LossSpec:
  """Which readout weighs what, when, and on which share of the tokens.

  Attributes:
    weight_K: unscheduled weight of each readout.
    schedule: of SCHEDULES.
    schedule_steps: its length in updates.
    rotate_every: period of the rotating schedule.
    normalize: none, or sum_to_one after the schedule was applied.
    token_fraction: random share of tokens for readouts inside a segment.
    exit_threshold: tokens whose maximum probability at a readout reaches it
      stop there, as under `copy_state` at inference; 0 = none do.
    exit_rows: share of the rows in which they do.
    per_segment: each segment is an update of its own, and normalised so.
    segments: S.
    carry_backprop: last segments that losses reach through; 1 = their own.
    target: what a readout is trained to say, a name of `train.targets`.
    gates: learned signals that are trained.
    gate_weight: weight of their losses.
    gate_exploration: chance that a token must go on, whatever its gate says.
  """

  weight_K: tuple[float, ...]
  schedule: str = 'constant'
  schedule_steps: int = 0
  rotate_every: int = 1
  normalize: str = 'none'
  token_fraction: float = 1.0
  exit_threshold: float = 0.0
  exit_rows: float = 0.5
  per_segment: bool = False
  segments: int = 1
  carry_backprop: int = 1
  target: str = 'label'
  gates: tuple[str, ...] = ()
  gate_weight: float = 0.0
  gate_exploration: float = 0.0

  def __post_init__(self):
    one_of('loss.schedule', self.schedule, SCHEDULES)
    one_of('loss.normalize', self.normalize, NORMALIZATIONS)
    need(
      0 < self.token_fraction <= 1,
      f'loss.token_fraction={self.token_fraction} is not in (0, 1]',
    )
    for name in ('exit_threshold', 'exit_rows', 'gate_exploration'):
      value = getattr(self, name)
      need(0 <= value <= 1, f'loss.{name}={value} is not in [0, 1]')
    need(
      self.schedule in TIMELESS or self.schedule_steps >= 1,
      f'loss.schedule={self.schedule} needs loss.schedule_steps >= 1, got '
      f'{self.schedule_steps}',
    )
    need(
      self.rotate_every >= 1,
      f'loss.rotate_every={self.rotate_every} must be at least 1',
    )
    need(
      self.gate_weight >= 0,
      f'loss.gate_weight={self.gate_weight} must be 0 (off) or positive',
    )
    for name in self.gates:
      self._check_gate(name)
    self._check_updates()

  def _check_gate(self, name: str) -> None:
    one_of('loss.gates', name, SIGNALS)
    gate = SIGNALS[name].gate
    need(
      gate is not None,
      f'loss.gates names {name}, which has nothing to learn; leave it out',
    )
    assert gate is not None
    need(
      not gate.ends_only or len(self.weight_K) == self.segments,
      f'loss.gates names {name}, which learns at the end of a segment only; '
      'let model.readouts name the last layer alone',
    )

  def _check_updates(self) -> None:
    if not self.per_segment:
      return
    need(
      all(any(row) for row in self.weight_SxR),
      f'train.updates=per_segment leaves a segment without a loss: the '
      f'weights are {self.weight_SxR}; use loss.weights=segment_ends, or give '
      'each row of loss.matrix a weight',
    )
    need(
      self.carry_backprop == 1,
      'train.updates=per_segment does not fit model.carry_backprop='
      f'{self.carry_backprop}: an update per segment ends the gradient there; '
      'use model.carry_backprop=1 or train.updates=joint',
    )

  @classmethod
  def from_config(
    cls,
    section: Mapping[str, Any],
    grid: Grid,
    *,
    per_segment: bool,
    carry_backprop: int,
  ) -> 'LossSpec':
    """The loss of a config.

    Args:
      section: `loss` of the config.
      grid: the model's cells.
      per_segment: whether each segment is an update of its own.
      carry_backprop: of the model.

    Raises:
      ConfigError: two fields clash.
    """
    one_of('loss.weights', section['weights'], WEIGHTS)
    weight_K = WEIGHTS[section['weights']](grid.names_K, section)
    own = ('weights', 'chosen', 'matrix', 'e_scale', 'gates')
    fields = {name: v for name, v in section.items() if name not in own}
    return cls(
      tuple(weight_K),
      per_segment=per_segment,
      segments=grid.segments,
      carry_backprop=carry_backprop,
      gates=tuple(section['gates']),
      **fields,
    )

  @property
  def weight_SxR(self) -> tuple[tuple[float, ...], ...]:
    """The unscheduled weights, a row for each segment."""
    per_segment = len(self.weight_K) // self.segments
    starts = range(0, len(self.weight_K), per_segment)
    return tuple(self.weight_K[s : s + per_segment] for s in starts)

  def weights_at(self, step: jax.Array) -> jax.Array:
    """Weight of each readout at an update, [K] float32."""
    num = len(self.weight_K)
    factor_K = schedule_factors(
      self.schedule, step, num, self.schedule_steps, self.rotate_every
    )
    weight_K = jnp.asarray(self.weight_K) * factor_K

    if self.normalize == 'none':
      return weight_K
    if not self.per_segment:
      return weight_K / weight_K.sum()

    # Each update by its own segment; a schedule may still lower all of it.
    base_SxR = jnp.asarray(self.weight_SxR)
    weight_SxR = weight_K.reshape(base_SxR.shape)
    return (weight_SxR / base_SxR.sum(1, keepdims=True)).reshape(-1)

  @property
  def gate_scale(self) -> float:
    """Weight of a segment's gate losses beside its readouts' weights."""
    shared = self.normalize == 'sum_to_one' and not self.per_segment
    return self.gate_weight / (self.segments if shared else 1)

  @property
  def learned(self) -> tuple[str, ...]:
    """Signals whose gates are trained."""
    return self.gates if self.gate_weight else ()

  @property
  def ahead(self) -> bool:
    """Whether a gate looks at the segment that comes next."""
    gates = [SIGNALS[name].gate for name in self.learned]
    return any(gate.ahead for gate in gates if gate is not None)

  @property
  def trained_K(self) -> list[float]:
    """Share of tokens that each readout is trained on, schedule ignored."""
    per_segment = len(self.weight_K) // self.segments
    shares = []
    for k, weight in enumerate(self.weight_K):
      is_end = (k + 1) % per_segment == 0
      share = 1.0 if is_end else self.token_fraction
      shares.append(share if weight > 0 else 0.0)
    return shares

  @property
  def asked_K(self) -> list[float]:
    """Share of tokens whose head each readout runs forward only.

    That is to decide on an exit, or whether a prediction was right.
    """
    last = len(self.weight_K) - 1
    for_exits = 1.0 if self.exit_threshold else 0.0
    for_gates = 1.0 if self.learned else 0.0
    return [
      max(for_exits if k < last else 0.0, for_gates)
      for k in range(len(self.weight_K))
    ]
