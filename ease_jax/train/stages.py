"""What an update trains: how often layers run, and which of them in vain."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ease_jax.core import shortcut
from ease_jax.core.layer_dropout import LayerDropout
from ease_jax.core.objective import LossSpec
from ease_jax.core.runs import DRAWING, DRAWN_ROWS
from ease_jax.data import Batch
from ease_jax.model import Body, routed, with_reach, with_segments
from ease_jax.train import cached
from ease_jax.train.loss import Metrics
from ease_jax.train.rows import RUNS
from ease_jax.train.spec import TrainSpec
from ease_jax.train.update import TrainState, train_step

# (number of the step, from 0, state, batch) -> state after it, metrics
Update = Callable[[int, TrainState, Batch], tuple[TrainState, Metrics]]


class Plan(NamedTuple):
  """What is particular to an update; updates of one plan share a program.

  Attributes:
    runs: segments that are run.
    reach: how far back gradients go (`Kind.reach`); None = through all of it.
    routing: which rows skip layers; None = nobody.
  """

  runs: int
  reach: int | None
  routing: LayerDropout | None


def way(loss: LossSpec, step: int, seed: int) -> np.ndarray | None:
  """The shortcut of an update (`core.shortcut`); None = there is none."""
  if not loss.shortcut.on:
    return None
  return shortcut.drawn_way(seed, step, loss.segments)


def plan(spec: TrainSpec, model: Body, step: int, seed: int) -> Plan:
  """The plan of an update: a function of its number and the seed.

  Args:
    spec: the schedules.
    model: a body.
    step: of the update, from 0.
    seed: of the run.
  """
  reach = model.kind.reach
  far = reach and spec.backprop_at(step, reach.full(model.cfg))
  runs = spec.runs_at(step, model.cfg.segments, seed)
  if spec.runs == DRAWN_ROWS:
    # Rows wait in segments that nobody runs, rather than that fewer are joined
    # by a gradient, which would be another program.
    reached = model if far is None else with_reach(model, far)
    runs = max(runs, reached.cfg.carry_backprop)
  return Plan(runs, far, spec.layer_dropout_at(step))


def tells(spec: TrainSpec, now: 'Stage') -> bool:
  """Whether a program is told how many runs learn nothing.

  A number that changes is no other program; one that is always 0, no part.
  """
  return now.before > 0 or spec.runs in DRAWING


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


def planned(model: Body, loss: LossSpec, now: Plan) -> Stage:
  """The stage of an update of such a plan."""
  if now.reach is not None:
    model = with_reach(model, now.reach)
  joined = model.cfg.carry_backprop
  if loss.carry_backprop != joined:
    loss = dataclasses.replace(loss, carry_backprop=joined)
  return stage(routed(model, now.routing), loss, now.runs)


def updating(
  spec: TrainSpec,
  model: Body,
  loss_spec: LossSpec,
  seed: int,
  **setting: Any,
) -> Update:
  """The update of each step.

  Args:
    spec: says how often layers run, how far gradients go, and which rows skip
      layers.
    model: a body.
    loss_spec: the loss.
    seed: of the run.
    setting: what `train_step` is given besides, the same in all steps.
  """

  def update(
    step: int, state: TrainState, batch: Batch
  ) -> tuple[TrainState, Metrics]:
    now = planned(model, loss_spec, plan(spec, model, step, seed))
    rows_B = spec.rows_at(step, model.cfg.segments, seed)
    if rows_B is not None:
      batch = batch | {RUNS: rows_B}
    state, metrics = train_step(
      state,
      batch,
      before=np.int32(now.before) if tells(spec, now) else None,
      way=way(loss_spec, step, seed),
      model=now.model,
      loss_spec=now.loss,
      accumulate=spec.accumulate,
      **setting,
    )
    return state, _numbered(metrics, now.before * model.grid.per_segment)

  return _keeping(update, model, spec.cached_batches)


def _keeping(update: Update, model: Body, num: int) -> Update:
  """An update that makes the states of each of some batches once.

  Args:
    update: given batches that come again after so many.
    model: a body; what is in front of its readouts stays.
    num: of batches; 0 = none comes again.
  """
  if not num:
    return update
  made: dict[int, cached.States] = {}

  def from_kept(
    step: int, state: TrainState, batch: Batch
  ) -> tuple[TrainState, Metrics]:
    place = step % num
    if place not in made:
      made[place] = cached.states(state.params, batch['tokens'], model=model)
    with_states: Any = batch | {cached.STATES: made[place]}
    return update(step, state, with_states)

  return from_kept


def _numbered(metrics: Metrics, before: int) -> Metrics:
  """With the losses of readouts by their place among all that were run."""
  named: Metrics = {}
  for name, value in metrics.items():
    number = name.removeprefix('loss_')
    if number.isdecimal():
      name = f'loss_{int(number) + before}'
    named[name] = value
  return named
