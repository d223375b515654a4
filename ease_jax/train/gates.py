"""Gates: the losses of learned signals, in one segment and over the grid."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from ease_jax.core.gates import Gate, GridLesson, Lesson
from ease_jax.core.objective import LossSpec
from ease_jax.core.observations import Observation
from ease_jax.core.signals import SIGNALS
from ease_jax.model import Body, layers, readout
from ease_jax.model.readout import Read
from ease_jax.model.walk import RUNNING, Exits, State, Travel, walk
from ease_jax.train.targets import Batch


class Segment(NamedTuple):
  """A segment that was run."""

  state: State  # all streams behind it
  state_R: tuple[State, ...]  # and at each of its readouts
  number: jax.Array  # from 0


class Told(NamedTuple):
  """What one segment tells those gates that learn from the whole grid."""

  output_RxBxTxO: dict[str, jax.Array]  # of each gate
  normed_RxBxTxD: jax.Array  # states as their heads see them; no gradient


def _gate(name: str) -> Gate:
  gate = SIGNALS[name].gate
  assert gate is not None
  return gate


def _output(bound: Body, spec: LossSpec, name: str, state: State) -> jax.Array:
  """What a gate says of a readout's state, [B, T, O]."""
  h_BxTxD = state[RUNNING]
  if not spec.gate_gradient:
    h_BxTxD = jax.lax.stop_gradient(h_BxTxD)
  return bound.gate(name, h_BxTxD)


def tell(
  bound: Body,
  spec: LossSpec,
  state_R: Sequence[State],
  answers: Callable[[State], jax.Array],
) -> Told | None:
  """What gates learn from later, when all segments were run.

  Args:
    bound: a bound body.
    spec: which gates learn.
    state_R: the streams at each readout of a segment.
    answers: the state that a head sees, from the streams at a readout.
  """
  if not spec.learned_from_grid:
    return None

  normed_R = [
    bound.normed(r, answers(state)) for r, state in enumerate(state_R)
  ]
  output = {
    name: jnp.stack([_output(bound, spec, name, state) for state in state_R])
    for name in spec.learned_from_grid
  }
  return Told(output, jax.lax.stop_gradient(jnp.stack(normed_R)))


def learn_from_grid(
  bound: Body, spec: LossSpec, batch: Batch, told_S: Told | None
) -> dict[str, jax.Array]:
  """Mean loss of each gate that looks at all readouts.

  Rows whose tokens may stop while training (`loss.exit_rows`) teach nothing:
  their deeper readouts are not what a token that goes on would see.

  Args:
    bound: a bound body.
    spec: which gates learn.
    batch: tokens, targets and mask, each [B, T].
    told_S: what the segments told, stacked; None where no gate learns so.
  """
  if told_S is None:
    return {}

  told_K: Told = jax.tree.map(_over_readouts, told_S)
  said_K = _said(bound, spec, batch, told_K.normed_RxBxTxD)
  mask_BxT = jnp.where(spec.exits(len(batch['mask'])), 0.0, batch['mask'])
  settings = dataclasses.asdict(spec)
  learned: dict[str, jax.Array] = {}

  for name in spec.learned_from_grid:
    lesson = GridLesson(
      output_KxBxTxO=told_K.output_RxBxTxO[name],
      nll_KxBxT=said_K.nll,
      argmax_KxBxT=said_K.argmax,
      kl_KxBxT=said_K.kl if spec.compares else None,
      target_BxT=batch['targets'],
      mask_BxT=mask_BxT,
      depth_K=bound.grid.depth_K,
      settings=settings,
    )
    grid_loss = _gate(name).grid_loss
    assert grid_loss is not None
    loss_BxT = grid_loss(lesson)
    chex.assert_equal_shape([loss_BxT, mask_BxT])
    total = (mask_BxT * loss_BxT).sum()
    learned[name] = total / jnp.maximum(mask_BxT.sum(), 1.0)

  return learned


def _said(
  bound: Body, spec: LossSpec, batch: Batch, normed_KxBxTxD: jax.Array
) -> Observation:
  """What all readouts say, each field [K, B, T]; `kl` is from the last one."""
  read_K = [Read(normed, normed) for normed in normed_KxBxTxD]
  last = read_K[-1] if spec.compares else None
  observations = [
    readout.observe(
      read,
      last,
      batch['targets'],
      bound.unembedding(),
      with_kl=spec.compares,
    )
    for read in read_K
  ]
  said_K = jax.tree.map(_stacked, *observations)
  return jax.lax.stop_gradient(said_K)


def _stacked(*x_K: jax.Array) -> jax.Array:
  return jnp.stack(x_K)


def _over_readouts(x_SxRx: jax.Array) -> jax.Array:
  """Segments and their readouts as one axis."""
  return x_SxRx.reshape(-1, *x_SxRx.shape[2:])


def learn_gates(
  bound: Body,
  spec: LossSpec,
  batch: Batch,
  alive_BxT: jax.Array,
  segment: Segment,
  key: jax.Array,
  answers: Callable[[State], jax.Array],
) -> tuple[dict[str, jax.Array], jax.Array]:
  """Mean loss of each gate that learns from one segment, and who goes on.

  Args:
    bound: a bound body.
    spec: which gates learn.
    batch: tokens, targets and mask, each [B, T].
    alive_BxT: tokens that are trained on in this segment, float32.
    segment: what was run.
    key: of exploration.
    answers: the state that a head sees, from the streams at a readout.

  Returns:
    The losses, and the tokens that are still trained on, float32.
  """
  state_R = segment.state_R
  trained_BxT = alive_BxT * batch['mask']
  learned: dict[str, jax.Array] = {}

  def observe(r: int) -> Observation:
    read = bound.read(r, answers(state_R[r]))
    return bound.observe(read, None, batch['targets'])

  for name in spec.learned:
    gate = _gate(name)
    if gate.loss is None:
      continue
    key, use_key = jax.random.split(key)
    lesson = Lesson(
      output_R=tuple(_output(bound, spec, name, s) for s in state_R),
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
    bound.grid.first,
    state,
    None,
    layer=bound.windows(length),
    travel=Travel(layers.positions(length)),
    read=read,
  )
  return walked.reads
