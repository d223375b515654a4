"""What an update trains: how often layers run, and which of them in vain."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ease_jax.core.objective import LossSpec
from ease_jax.core.runs import DRAWN
from ease_jax.data import Batch
from ease_jax.model import Body, routed, with_segments
from ease_jax.train.loss import Metrics
from ease_jax.train.spec import TrainSpec
from ease_jax.train.update import TrainState, train_step

# (number of the step, from 0, state, batch) -> state after it, metrics
Update = Callable[[int, TrainState, Batch], tuple[TrainState, Metrics]]


class Stage(NamedTuple):
  """What is differentiated where layers run so often.

  Attributes:
    model: with the segments that something is learned from.
    loss: of these.
    before: segments that run first and learn nothing.
  """

  model: Body
  loss: LossSpec
  before: int


def stage(model: Body, loss: LossSpec, runs: int) -> Stage:
  """The stage of an update that runs so many segments.

  Args:
    model: a body.
    loss: of it.
    runs: segments, as many as the model has or not.
  """
  draws = model.cfg.dropout > 0 or model.grid.routed
  before = 0 if draws else loss.of_segments(runs).unreached
  taught = runs - before
  return Stage(with_segments(model, taught), loss.of_segments(taught), before)


def updating(
  spec: TrainSpec,
  model: Body,
  loss_spec: LossSpec,
  seed: int,
  **setting: Any,
) -> Update:
  """The update of each step.

  Args:
    spec: says how often layers run, and which rows skip some.
    model: a body.
    loss_spec: the loss.
    seed: of the run.
    setting: what `train_step` is given besides, the same in all steps.
  """

  def update(
    step: int, state: TrainState, batch: Batch
  ) -> tuple[TrainState, Metrics]:
    runs = spec.runs_at(step, loss_spec.segments, seed)
    routing = spec.layer_dropout_at(step)
    now = stage(routed(model, routing), loss_spec, runs)
    # A number that changes is no other program; one that is always 0, no part.
    counts = now.before > 0 or spec.runs == DRAWN
    state, metrics = train_step(
      state,
      batch,
      before=np.int32(now.before) if counts else None,
      model=now.model,
      loss_spec=now.loss,
      accumulate=spec.accumulate,
      **setting,
    )
    return state, _numbered(metrics, now.before * model.grid.per_segment)

  return update


def _numbered(metrics: Metrics, before: int) -> Metrics:
  """With the losses of readouts by their place among all that were run."""
  named: Metrics = {}
  for name, value in metrics.items():
    number = name.removeprefix('loss_')
    if number.isdecimal():
      name = f'loss_{int(number) + before}'
    named[name] = value
  return named
