"""What the grid loss weighs, when, and on which share of the tokens."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ease_jax.config import readouts
from ease_jax.core import grid


@dataclasses.dataclass(frozen=True)
class LossSpec:
  """Which readout weighs what, when, and on which share of the tokens.

  Attributes:
    weight_K: unscheduled weight of each readout.
    schedule: see `grid.schedule_factors`.
    schedule_steps: its length in updates.
    rotate_every: period of the rotating schedule.
    normalize: none, or sum_to_one after the schedule was applied.
    token_fraction: random share of tokens for readouts inside a segment.
    exit_threshold: tokens whose maximum probability at a readout reaches it
      stop there, as under `copy_state` at inference; 0 = none do.
    exit_rows: share of the rows in which they do.
    per_segment: each segment is an update of its own, and normalised so.
    segments: S.
    halt_weight: of the Q-learning of when to stop; 0 = off.
    halt_exploration: see `halting.halts`.
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
  halt_weight: float = 0.0
  halt_exploration: float = 0.0

  @classmethod
  def from_config(cls, config: Any) -> 'LossSpec':
    c, model = config.loss, config.model
    numbers = range(1, model.segments + 1)
    weight_K = grid.base_weights(
      c.weights,
      [(s, l) for s in numbers for l in readouts(model)],
      chosen=c.chosen,
      matrix=c.matrix,
      e_scale=c.e_scale,
    )
    return cls(
      weight_K,
      c.schedule,
      c.schedule_steps,
      c.rotate_every,
      c.normalize,
      c.token_fraction,
      c.exit_threshold,
      c.exit_rows,
      config.train.updates == 'per_segment',
      model.segments,
      *((c.halt_weight, c.halt_exploration) if model.body == 'hrm' else ()),
    )

  def weights_at(self, step: jax.Array) -> jax.Array:
    """Weight of each readout at an update, [K] float32."""
    num = len(self.weight_K)
    weight_K = jnp.asarray(self.weight_K) * grid.schedule_factors(
      self.schedule, step, num, self.schedule_steps, self.rotate_every
    )
    if self.normalize == 'none':
      return weight_K
    if not self.per_segment:
      return weight_K / weight_K.sum()
    # Each update by its own segment; a schedule may still lower all of it.
    base_SxR = jnp.asarray(self.weight_K).reshape(self.segments, -1)
    weight_SxR = weight_K.reshape(base_SxR.shape)
    return (weight_SxR / base_SxR.sum(1, keepdims=True)).reshape(-1)

  @property
  def halt_scale(self) -> float:
    """Weight of a segment's Q-loss beside its readouts' weights."""
    shared = self.normalize == 'sum_to_one' and not self.per_segment
    return self.halt_weight / (self.segments if shared else 1)

  def supervised_fraction(self) -> list[float]:
    """Share of tokens each readout's head works on, schedule ignored.

    A head that only decides on an exit, or whether a prediction was right, is
    a forward pass: a third of one that is trained.
    """
    last, size = len(self.weight_K) - 1, len(self.weight_K) // self.segments
    decides = 1 / 3 if self.exit_threshold or self.halt_weight else 0.0
    is_end = lambda k: (k + 1) % size == 0
    return [
      float(weight > 0) * (1.0 if is_end(k) else self.token_fraction)
      + (decides if k < last or self.halt_weight else 0.0)
      for k, weight in enumerate(self.weight_K)
    ]
