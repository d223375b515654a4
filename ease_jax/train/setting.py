"""What the segments of a batch share, and what each has of its own."""

import functools
from typing import NamedTuple

import jax

from ease_jax.core.objective import LossSpec
from ease_jax.model import Body, Params
from ease_jax.model.sight import Places
from ease_jax.model.walk import Leap, Run, Travel
from ease_jax.train.targets import TARGETS, Batch, Prepared, Target, Teacher


class Part(NamedTuple):
  """One segment of an update; S of them are stacked."""

  number: jax.Array  # from 0
  run: Run  # the same, with segments counted that learned nothing
  weight_R: jax.Array  # of each of its readouts
  key: jax.Array  # for dropout, first states, choice of tokens, exploration
  leap: Leap | None = None  # its place on a shortcut

  def travel(self, places: Places, key: jax.Array) -> Travel:
    """Where the tokens of its windows stand, and which run it is."""
    position_BxT = places.position_BxT
    return Travel(position_BxT, key, before=self.run, leap=self.leap)


class Setting(NamedTuple):
  """What is the same for all segments of a batch."""

  model: Body
  spec: LossSpec
  batch: Batch
  target: Target
  prepared: Prepared  # of it; None with one segment, which prepares its own
  start_key: jax.Array  # of the streams before the first segment


def prepared(
  params: Params,
  model: Body,
  spec: LossSpec,
  batch: Batch,
  key: jax.Array,
  teacher: Teacher | None = None,
) -> Setting:
  """The setting of a batch; its target is made without a gradient.

  Args:
    params: the model's parameters.
    model: a body.
    spec: the loss.
    batch: tokens, targets and mask, each [B, T].
    key: of the update.
    teacher: of the target, where it has one beside the model.
  """
  target = TARGETS[spec.teaching.target](spec, teacher)
  start_key = jax.random.fold_in(key, spec.segments)
  setting = Setting(model, spec, batch, target, None, start_key)
  if spec.segments == 1:
    return setting

  params = jax.lax.stop_gradient(params)
  bound = model.bind({'params': params})
  answer = functools.partial(Teacher(model, params).answer, batch['tokens'])
  ready = jax.lax.stop_gradient(target.prepare(bound, batch, answer))
  return setting._replace(prepared=ready)
