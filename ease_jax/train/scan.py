"""The scan over the segments of an update."""

import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ease_jax.core.objective import LossSpec
from ease_jax.model import Params
from ease_jax.model.walk import Leap, State, Tree
from ease_jax.train.segment import Progress, SegmentLosses, segment_loss
from ease_jax.train.setting import Part, Setting

Carry = TypeVar('Carry')


def parts(
  spec: LossSpec,
  step: jax.Array,
  key: jax.Array,
  before: jax.Array | None = None,
  way: jax.Array | None = None,
) -> Part:
  """The segments of an update, stacked along a leading axis.

  Args:
    spec: the loss.
    step: the update's number, from 0.
    key: of everything random in the update.
    before: segments that run first and learn nothing; None = there are none.
    way: where each starts, and the end, [S + 1] shares of the whole way; None
      = all make as much of it.
  """
  number_S = jnp.arange(spec.segments)
  weight_SxR = spec.weights_at(step).reshape(spec.segments, -1)
  key_S = jax.vmap(functools.partial(jax.random.fold_in, key))(number_S)
  # The run of one segment alone is known beforehand.
  run_S = np.arange(spec.segments) if before is None else number_S + before
  leap_S = None if way is None else Leap(way[:-1], jnp.diff(way))
  return Part(number_S, run_S, weight_SxR, key_S, leap_S)


def over_segments(
  one: Callable[[Carry, Part], tuple[Carry, Tree]], carry: Carry, parts: Part
) -> tuple[Carry, Tree]:
  """The scan over the segments of an update; a plain program if there is one.

  Args:
    one: (carry, segment) -> (carry, what is kept of it).
    carry: before the first segment.
    parts: the segments, stacked.

  Returns:
    The last carry, and what was kept, stacked.
  """
  if len(parts.number) > 1:
    return jax.lax.scan(one, carry, parts)

  carry, kept = one(carry, jax.tree.map(lambda x: x[0], parts))
  return carry, jax.tree.map(lambda x: x[None], kept)


def joined(
  params: Params,
  setting: Setting,
  started: State,
  progress: Progress,
  parts: Part,
) -> tuple[Progress, jax.Array, SegmentLosses]:
  """All segments, differentiated together.

  Gradients flow from one segment to the one before it among the last
  `carry_backprop` segments only.

  Args:
    params: the model's parameters.
    setting: what all segments share.
    started: the streams before the first segment.
    progress: before the first of these segments.
    parts: the segments, stacked.

  Returns:
    The last progress, and of each segment its loss, [S], and its losses.
  """
  spec = setting.spec

  def one(
    progress: Progress, part: Part
  ) -> tuple[Progress, tuple[jax.Array, SegmentLosses]]:
    if spec.segments > 1:
      progress = _cut(progress, part.number, spec)
    loss, (progress, losses) = segment_loss(
      params, progress, part, setting, started
    )
    return progress, (loss, losses)

  if spec.segments > 1:
    one = jax.checkpoint(one, prevent_cse=False)
  progress, (loss_S, losses) = over_segments(one, progress, parts)
  return progress, loss_S, losses


def _cut(progress: Progress, number: jax.Array, spec: LossSpec) -> Progress:
  """The same values, a constant where no gradient joins two segments."""
  is_first = number == 0
  is_joined = number > spec.segments - spec.carry_backprop
  passes = is_first | is_joined

  def cut(z: jax.Array) -> jax.Array:
    return jnp.where(passes, z, jax.lax.stop_gradient(z))

  return jax.tree.map(cut, progress)
