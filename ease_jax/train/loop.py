"""Training: the thin shell that feeds the updates and writes them down.

A run that is killed at any moment and started again with the same command
ends with the same bits as one that never was: everything random is a function
of (seed, step), and a checkpoint holds the data position and what the
patience has counted.
"""

import contextlib
import functools
import math
import os
from collections.abc import Callable, Hashable
from typing import NamedTuple

import jax

from ease_jax import arrays, processes
from ease_jax.core.objective import LossSpec
from ease_jax.data import BatchIterator, Task
from ease_jax.evaluate import passes
from ease_jax.model import Body, Params
from ease_jax.processes import Tally
from ease_jax.progress import stage
from ease_jax.train import cached, history, peak, running
from ease_jax.train.checkpoint import Checkpoints
from ease_jax.train.counting import Counting
from ease_jax.train.optimizer import OptimizerSpec
from ease_jax.train.preemption import Preempted, Sigterm
from ease_jax.train.running import Run, Unread
from ease_jax.train.saved import Host, Json, check_facts, check_teacher
from ease_jax.train.spec import TrainSpec
from ease_jax.train.stages import Update, updating
from ease_jax.train.targets import Teacher
from ease_jax.train.tracing import Profile
from ease_jax.train.update import (
  TrainState,
  abstract_state,
  first_state,
)
from ease_jax.train.writers import Writers, writing

FINITE = ('loss', 'grad_norm', 'param_norm')


class TrainingDiverged(FloatingPointError):
  """The loss, the gradient or the parameters are no longer finite."""


class Events(NamedTuple):
  """What happens on the way.

  Attributes:
    update: of the state, by a batch.
    select_loss: of parameters, nats per token.
    counting: says the FLOPs of an update.
    checkpoints: where the state is saved.
    writers: what is told of it.
  """

  update: Update
  select_loss: Callable[[Params], float]
  counting: Counting
  checkpoints: Checkpoints
  writers: Writers


def train(
  spec: TrainSpec,
  workdir: str | os.PathLike[str],
  model: Body,
  task: Task,
  *,
  loss_spec: LossSpec,
  opt_spec: OptimizerSpec,
  seed: int,
  eval_batch_size: int,
  eval_max_tokens: int,
  initial: Params | None = None,
  fit: Callable[[Params], Params] | None = None,
  teacher: Teacher | None = None,
  made_by: Json | None = None,
) -> Run:
  """Trains to the end, from wherever the workdir's checkpoints stand.

  Args:
    spec: how long, and what happens on the way.
    workdir: gets `checkpoints/` and `metrics.jsonl`.
    model: a body.
    task: its split train is learned, its split select evaluated.
    loss_spec: the loss.
    opt_spec: the optimizer.
    seed: of parameters, data order and everything random.
    eval_batch_size: windows per batch of an evaluation.
    eval_max_tokens: tokens that an evaluation scores, about; 0 = all.
    initial: parameters to start with instead of random ones, by group; those
      that it lacks are random. Not read where a checkpoint is.
    fit: changes those before the first update; None = they stay.
    teacher: of the loss's target, where another run is one; in no checkpoint.
    made_by: the fields of the config that decide what is trained, flat; each
      checkpoint notes them, and one of others is refused.

  Returns:
    The run at its end; `state.params` are its newest parameters.

  Raises:
    TrainingDiverged: a loss or a norm is not finite; nothing of it is saved.
    Preempted: SIGTERM came. The update and the evaluation in progress are
      completed and saved first.
    ConfigError: no checkpoint of the workdir can be read, or they are of
      other data, of another config, or had another teacher.
    OSError: something cannot be written; what was saved before stays.
  """
  init_key, key = jax.random.split(jax.random.key(seed))
  batches = task.train_batches(spec.batch_size, seed)
  batches = cached.again(batches, spec.cached_batches)
  update = updating(
    spec, model, loss_spec, seed, key=key, teacher=teacher, opt_spec=opt_spec
  )
  how = model, opt_spec, initial, fit
  fresh = functools.partial(first_state, init_key, *how)
  counting = Counting(
    spec, model, loss_spec, opt_spec, task.seq_len, seed, _flops_of(teacher)
  )

  def select_loss(params: Params) -> float:
    batches = task.eval_batches('select', eval_batch_size, eval_max_tokens)
    return passes.last_nll(model, params, batches)

  with Sigterm() as sigterm:
    checkpoints = Checkpoints(workdir, spec.keep, task.to_json(), made_by)
    with checkpoints:
      shapes = abstract_state(model, opt_spec)
      run = _begin(checkpoints, workdir, task, teacher, batches, shapes, fresh)
      run.peak = peak.of_devices(model.cfg.dtype)
      run.host.devices = peak.described()
      with writing(
        workdir, spec.steps, run.step, tensorboard=spec.tensorboard
      ) as writers:
        for words in _said(spec, run, opt_spec, model, task.seq_len):
          writers.say(words)
        events = Events(update, select_loss, counting, checkpoints, writers)
        _loop(spec, run, events, sigterm)
      checkpoints.wait()
    if processes.agreed(sigterm.received):  # while the last of it was written
      raise _preempted(run)
  return run


def _said(
  spec: TrainSpec, run: Run, opt_spec: OptimizerSpec, model: Body, seq_len: int
) -> list[str]:
  """What there is to say before anything is trained; notes an extension."""
  over = _is_over(spec, run)
  said = list(history.begin(run.step, run.host, opt_spec, over=over))
  if not over:
    said.extend(cached.described(spec, model, seq_len))
  return said


def _flops_of(teacher: Teacher | None) -> float:
  """What the run that teaches takes for a token."""
  return teacher.facts.flops if teacher and teacher.facts else 0.0


def _preempted(run: Run) -> Preempted:
  step = f'step {run.step}, which is saved'
  return Preempted(f'stopped by SIGTERM at {step}; the same command continues')


def _begin(
  checkpoints: Checkpoints,
  workdir: str | os.PathLike[str],
  task: Task,
  teacher: Teacher | None,
  batches: BatchIterator,
  abstract: TrainState,
  fresh: Callable[[], TrainState],
) -> Run:
  """The run as its newest checkpoint left it, or a fresh one.

  Raises:
    ConfigError: it was trained on other data, or by another teacher.
  """
  facts = teacher.facts.to_json() if teacher and teacher.facts else None
  restored = checkpoints.restore(abstract)
  if restored is None:
    host = Host(teacher=facts)
    return Run(step=0, state=fresh(), batches=batches, host=host, saved_step=0)
  check_facts(workdir, restored.facts, task.to_json())
  check_teacher(workdir, restored.host.teacher, facts)
  batches.set_state(restored.data)
  return Run(
    step=restored.step,
    state=restored.state,
    batches=batches,
    host=restored.host,
    saved_step=restored.step,
  )


def _loop(spec: TrainSpec, run: Run, events: Events, sigterm: Sigterm) -> None:
  """Everything that happens until the run is over, in order."""
  update, select_loss, counting, checkpoints, writers = events
  if spec.steps == 0:  # what was fitted is all there is to save
    _save(run, checkpoints)

  compiled: set[Hashable] = set()
  unread: Unread | None = None  # of the newest step
  heard = Tally(0, False)  # of the step before: what all processes know
  first = run.step
  profile = Profile(spec.profile, run.step, writers.folder)
  with profile, contextlib.ExitStack() as compiling:
    compiling.enter_context(stage('compiling the first step'))
    while not _is_over(spec, run):
      profile.before(run.step)
      run.spend(running.UPDATES)
      rows = next(run.batches)
      batch = arrays.from_own_rows(rows, spec.batch_size)
      # Devices that are still busy have lost nothing by it.
      busy = unread is not None and unread.is_going_on
      run.spend(running.UPDATES if busy else running.DATA)
      if run.step == first:
        processes.warn_of_same_rows(rows['tokens'])
      counts = processes.tally(batch['mask'], sigterm.received)
      with jax.profiler.StepTraceAnnotation('train', step_num=run.step):
        run.state, metrics = update(run.step, run.state, batch)
      program = counting.program(run.step)
      flops = counting.at(run.step)
      run.spend(running.UPDATES if program in compiled else running.COMPILING)
      compiled.add(program)
      compiling.close()

      # While the device is busy with this step, wait for the one before.
      told = bool(heard.stops)
      if unread is not None:
        _write_metrics(spec, run, unread, writers)
      unread = Unread(metrics, counts, flops)
      heard = counts
      run.step += 1
      stopped = told if processes.several() else sigterm.received

      if profile.ends_after(run.step):
        _end(profile, run, writers)

      evaluation_due = run.step % spec.eval_every == 0 or run.step == spec.steps
      checkpoint_due = run.step % spec.checkpoint_every == 0
      if not (evaluation_due or checkpoint_due or stopped):
        continue

      # Nothing is evaluated or saved before its metrics were found finite.
      _write_metrics(spec, run, unread, writers)
      unread = None
      improved = False
      if evaluation_due:
        loss = select_loss(run.state.params)
        run.spend(running.EVALUATION)
        improved = _write_select_loss(spec, run, loss, writers)

      stopped = told if processes.several() else sigterm.received
      if improved or checkpoint_due or stopped or _is_over(spec, run):
        _save(run, checkpoints)
      if stopped:
        checkpoints.wait()
        raise _preempted(run)
    _end(profile, run, writers)


def _end(profile: Profile, run: Run, writers: Writers) -> None:
  """Writes the trace, if there is one to write, in no seconds of the run's."""
  jax.block_until_ready(run.state)
  run.spend(running.UPDATES)
  for words in profile.end():
    writers.say(words)
  run.leave_out()


def _is_over(spec: TrainSpec, run: Run) -> bool:
  """Whether all steps are done, or patience has run out."""
  out_of_patience = 0 < spec.patience <= run.host.bad_evals
  return out_of_patience or run.step == spec.steps


def _write_metrics(
  spec: TrainSpec, run: Run, unread: Unread, writers: Writers
) -> None:
  """Fetches and checks the metrics of step `run.step`; writes them when due.

  Raises:
    TrainingDiverged: one of FINITE is not.
  """
  fetched = jax.device_get(unread.metrics)
  tokens = int(unread.counts.tokens)
  run.spend(running.UPDATES)
  run.host.tokens += tokens
  run.host.counted_flops += tokens * unread.flops
  values = {name: float(fetched[name]) for name in fetched}
  if not all(math.isfinite(values[name]) for name in FINITE):
    saved = f'that of step {run.saved_step}' if run.saved_step else 'none'
    raise TrainingDiverged(
      f'training diverged at step {run.step}: loss {values["loss"]:g}, '
      f'learning rate {values["learning_rate"]:g}, gradient norm '
      f'{values["grad_norm"]:g}; lower optimizer.learning_rate or '
      f'optimizer.clip_norm (last good checkpoint: {saved})'
    )
  if run.step % spec.log_every == 0 or run.step == spec.steps:
    values |= run.speeds()
    run.start_lap()
    writers.write(run.step, run.wall_s, 'train', values)


def _write_select_loss(
  spec: TrainSpec, run: Run, loss: float, writers: Writers
) -> bool:
  """Writes a select loss down; returns whether it is the lowest so far.

  Raises:
    TrainingDiverged: it is not finite.
  """
  if not math.isfinite(loss):
    raise TrainingDiverged(
      f'training diverged at step {run.step}: select loss {loss:g}; '
      'lower optimizer.learning_rate'
    )
  host = run.host
  # A frozen model's loss does not change: its newest gates are the best.
  improved = spec.frozen or host.best_loss is None or loss < host.best_loss
  if improved:
    host.best_loss = loss
    host.best_step = run.step
    host.bad_evals = 0
  else:
    host.bad_evals += 1
  values = {'loss': loss, 'best_loss': host.best_loss}
  writers.write(run.step, run.wall_s, 'select', values)
  return improved


def _save(run: Run, checkpoints: Checkpoints) -> None:
  run.spend(running.UPDATES)
  run.host.wall_s = run.wall_s
  checkpoints.save(run.step, run.state, run.batches.get_state(), run.host)
  run.saved_step = run.step
  run.spend(running.CHECKPOINTS)
