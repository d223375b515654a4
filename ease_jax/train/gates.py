"""Gates: the losses of learned signals, in one segment and over the grid."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from ease_jax.core.gates import GridLesson, Lesson
from ease_jax.core.objective import LossSpec
from ease_jax.core.observations import Observation
from ease_jax.core.signals import gate_of
from ease_jax.model import Body, readout
from ease_jax.model.exits import Exits
from ease_jax.model.readout import Read
from ease_jax.model.sight import Places, places_of
from ease_jax.model.walk import RUNNING, State, Travel, walk
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


def _outputs(
  bound: Body, spec: LossSpec, name: str, segment: Segment
) -> tuple[jax.Array, ...]:
  """What a gate says at each readout of a segment, R of [B, T, O]."""
  outputs = []
  for r, state in enumerate(segment.state_R):
    h_BxTxD = state[RUNNING]
    if not spec.gating.gate_gradient:
      h_BxTxD = jax.lax.stop_gradient(h_BxTxD)
    k = bound.grid.per_segment * segment.number + r
    outputs.append(bound.gate(name, k, h_BxTxD))
  return tuple(outputs)


def shares(
  bound: Body, spec: LossSpec, segment: Segment, left_BxT: jax.Array
) -> tuple[list[jax.Array], jax.Array]:
  """How much the loss of each readout of a segment counts for each token.

  All of it, or what the distribution of a gate says: the sum over all readouts
  of the model is 1 then. The gate learns nothing from it.

  Args:
    bound: a bound body.
    spec: which gate weighs.
    segment: what was run.
    left_BxT: what the segments before left of each token, from 1.

  Returns:
    One [B, T] for each readout, and what is left.
  """
  name = spec.gating.weighing
  if name is None:
    return [jnp.ones_like(left_BxT)] * len(segment.state_R), left_BxT

  last = bound.grid.num_readouts - 1
  share_R = []
  for r, output_BxTxO in enumerate(_outputs(bound, spec, name, segment)):
    k = bound.grid.per_segment * segment.number + r
    logit_BxT = jax.lax.stop_gradient(output_BxTxO[..., 0])
    stops_BxT = jnp.where(k == last, 1.0, jax.nn.sigmoid(logit_BxT))
    share_R.append(left_BxT * stops_BxT)
    left_BxT = left_BxT * (1 - stops_BxT)
  return share_R, left_BxT


@jax.named_scope('gates')
def tell(
  bound: Body,
  spec: LossSpec,
  segment: Segment,
  answers: Callable[[State], jax.Array],
) -> Told | None:
  """What gates learn from later, when all segments were run.

  Args:
    bound: a bound body.
    spec: which gates learn.
    segment: what was run.
    answers: the state that a head sees, from the streams at a readout.
  """
  if not spec.gating.from_grid:
    return None

  normed_R = [
    bound.normed(r, answers(state)) for r, state in enumerate(segment.state_R)
  ]
  output = {
    name: jnp.stack(_outputs(bound, spec, name, segment))
    for name in spec.gating.from_grid
  }
  return Told(output, jax.lax.stop_gradient(jnp.stack(normed_R)))


@jax.named_scope('gates')
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
  settings = dataclasses.asdict(spec.gating)
  learned: dict[str, jax.Array] = {}

  for name in spec.gating.from_grid:
    lesson = GridLesson(
      output_KxBxTxO=told_K.output_RxBxTxO[name],
      nll_KxBxT=said_K.nll,
      argmax_KxBxT=said_K.argmax,
      kl_KxBxT=said_K.kl if spec.gating.compares else None,
      target_BxT=batch['targets'],
      mask_BxT=mask_BxT,
      depth_K=bound.grid.depth_K,
      settings=settings,
    )
    grid_loss = gate_of(name).grid_loss
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
  compares = spec.gating.compares
  last = read_K[-1] if compares else None
  observations = [
    readout.observe(
      read,
      last,
      batch['targets'],
      bound.unembedding(k),
      bound.unembedding() if compares else None,
    )
    for k, read in enumerate(read_K)
  ]
  said_K = jax.tree.map(_stacked, *observations)
  return jax.lax.stop_gradient(said_K)


def _stacked(*x_K: jax.Array) -> jax.Array:
  return jnp.stack(x_K)


def _over_readouts(x_SxRx: jax.Array) -> jax.Array:
  """Segments and their readouts as one axis."""
  return x_SxRx.reshape(-1, *x_SxRx.shape[2:])


@jax.named_scope('gates')
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
    return bound.observe(r, read, None, batch['targets'])

  def later(name: str) -> tuple[jax.Array, ...]:
    places = places_of(bound.cfg, batch['tokens'])
    return _one_segment_later(bound, name, segment, places)

  for name in spec.gating.learned:
    gate = gate_of(name)
    if gate.loss is None:
      continue
    key, use_key = jax.random.split(key)
    lesson = Lesson(
      output_R=_outputs(bound, spec, name, segment),
      observe=observe,
      target_BxT=batch['targets'],
      next_R=later(name) if gate.ahead else (),
      number=segment.number + 1,
      segments=spec.segments,
      exploration=spec.gating.gate_exploration,
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
  bound: Body, name: str, segment: Segment, places: Places
) -> tuple[jax.Array, ...]:
  """Outputs of a gate in the next segment, from a second forward pass.

  The parameters are the same, as in HRM's official code.
  """
  first = bound.grid.per_segment * (segment.number + 1)

  def read(
    r: int, state: State, exits: Exits | None
  ) -> tuple[Exits | None, jax.Array]:
    return exits, bound.gate(name, first + r, state[RUNNING])

  walked = walk(
    bound,
    bound.grid.first,
    segment.state,
    None,
    layer=bound.windows(places),
    travel=Travel(places.position_BxT, before=segment.number + 1),
    read=read,
  )
  return walked.reads
