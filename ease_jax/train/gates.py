"""Gates: the losses of learned signals in one segment."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from ease_jax.core.objective import LossSpec
from ease_jax.core.signals import SIGNALS, Lesson, Observation
from ease_jax.model import Body, layers
from ease_jax.model.walk import RUNNING, Exits, State, Travel, walk
from ease_jax.train.targets import Batch


class Segment(NamedTuple):
  """A segment that was run."""

  state: State  # all streams behind it
  state_R: tuple[State, ...]  # and at each of its readouts
  number: jax.Array  # from 0


def learn_gates(
  bound: Body,
  spec: LossSpec,
  batch: Batch,
  alive_BxT: jax.Array,
  segment: Segment,
  key: jax.Array,
  answers: Callable[[State], jax.Array],
) -> tuple[dict[str, jax.Array], jax.Array]:
  """Mean loss of each gate, and the tokens that are still trained on.

  Args:
    bound: a bound body.
    spec: which gates learn.
    batch: tokens, targets and mask, each [B, T].
    alive_BxT: tokens that are trained on in this segment, float32.
    segment: what was run.
    key: of exploration.
    answers: the state that a head sees, from the streams at a readout.
  """
  state_R = segment.state_R
  trained_BxT = alive_BxT * batch['mask']
  learned: dict[str, jax.Array] = {}

  def observe(r: int) -> Observation:
    read = bound.read(r, answers(state_R[r]))
    return bound.observe(read, None, batch['targets'])

  for name in spec.learned:
    gate = SIGNALS[name].gate
    assert gate is not None
    key, use_key = jax.random.split(key)
    lesson = Lesson(
      output_R=tuple(bound.gate(name, s[RUNNING]) for s in state_R),
      observe=observe,
      target_BxT=batch['targets'],
      next_R=_one_segment_later(bound, name, segment.state)
      if gate.ahead
      else (),
      number=segment.number + 1,
      segments=spec.segments,
      exploration=spec.gate_exploration,
      key=use_key,
    )
    result = gate.loss(lesson)
    chex.assert_equal_shape([result.loss_BxT, alive_BxT])
    loss_BxT = trained_BxT * result.loss_BxT
    learned[name] = loss_BxT.sum() / jnp.maximum(batch['mask'].sum(), 1.0)
    if result.halts_BxT is not None:
      alive_BxT = jnp.where(result.halts_BxT, 0.0, alive_BxT)

  return learned, alive_BxT


def _one_segment_later(
  bound: Body, name: str, state: State
) -> tuple[jax.Array, ...]:
  """Outputs of a gate in the next segment, from a second forward pass.

  The parameters are the same, as in HRM's official code.
  """
  length = state[RUNNING].shape[1]

  def read(
    r: int, state: State, exits: Exits | None
  ) -> tuple[Exits | None, jax.Array]:
    del r
    return exits, bound.gate(name, state[RUNNING])

  walked = walk(
    bound,
    bound.grid.segment,
    state,
    None,
    layer=bound.windows(length),
    travel=Travel(layers.positions(length)),
    read=read,
  )
  return walked.reads
