"""Training: the thin shell that feeds the updates and writes them down.

A run that is killed at any moment and started again with the same command
ends with the same bits as one that never was: everything random is a function
of (seed, step), and a checkpoint holds the data position and what the
patience has counted.
"""

import math
import os
import time
from typing import Any

import jax
import numpy as np

from ease_jax import data
from ease_jax.config import ModelConfig
from ease_jax.core import costs
from ease_jax.core.objective import LossSpec
from ease_jax.evaluate import passes
from ease_jax.train.checkpoint import Checkpoints, Host
from ease_jax.train.optimizer import OptimizerSpec
from ease_jax.train.preemption import Preempted, Sigterm
from ease_jax.train.update import abstract_state, init_state, train_step
from ease_jax.train.writers import Writers

PROFILE_STEPS = range(10, 15)  # updates, from 0


class TrainingDiverged(FloatingPointError):
  """The loss, the gradient or the parameters are no longer finite."""


class _Run:
  """The state of a run and its surroundings."""

  def __init__(
    self,
    config: Any,
    workdir: str,
    model: Any,
    corpus: Any,
    checkpoints: Checkpoints,
  ):
    self.config, self.workdir, self.corpus = config, workdir, corpus
    self.model, self.checkpoints = model, checkpoints
    self.opt_spec = OptimizerSpec.from_config(config)
    self.loss_spec = LossSpec.from_config(config)
    init_key, self.key = jax.random.split(jax.random.key(config.seed))
    self.batches = data.train_iterator(
      corpus.splits['train'],
      config.data.seq_len,
      config.train.batch_size,
      config.seed,
    )
    self.pending = None  # (step, metrics) of the newest update, on the device
    found = checkpoints.restore(abstract_state(model, self.opt_spec))
    if found is None:
      self.step, self.host = 0, Host()
      self.state = init_state(init_key, model=model, opt_spec=self.opt_spec)
    else:
      self.step, self.state, self.host = found.step, found.state, found.host
      self.batches.set_state(found.data)
    self.saved_at = self.step
    self._start = time.monotonic() - self.host.wall_s
    self._mark = time.monotonic(), self.host.tokens

  def loop(self, writers: Writers, sigterm: Sigterm) -> None:
    """Updates until the end, with evaluations and checkpoints on the way.

    Raises:
      Preempted: SIGTERM came; the state is saved.
      TrainingDiverged: see `_settle`.
    """
    c, profiling = self.config.train, False
    try:
      while not (self._is_stop(sigterm) and self._stop(writers, sigterm)):
        if c.profile and self.step == PROFILE_STEPS.start:
          jax.profiler.start_trace(os.path.join(self.workdir, 'profile'))
          profiling = True
        self._update(writers)
        if profiling and self.step == PROFILE_STEPS.stop:
          jax.block_until_ready(self.state)
          jax.profiler.stop_trace()
          profiling = False
    finally:
      if profiling:
        jax.profiler.stop_trace()

  def _is_stop(self, sigterm: Sigterm) -> bool:
    """Whether something may have to be done before the next update."""
    c = self.config.train
    return (
      sigterm.received
      or self.step == c.steps
      or self.step % math.gcd(c.eval_every, c.checkpoint_every) == 0
    )

  def _stop(self, writers: Writers, sigterm: Sigterm) -> bool:
    """Evaluates and saves what is due; returns whether training is over."""
    c = self.config.train
    self._settle(writers)
    due = self.step % c.eval_every == 0 or self.step == c.steps
    improved = False
    if due and self.step > self.host.evaluated_at:
      improved = self._evaluate(writers)
    over = self.step == c.steps or 0 < c.patience <= self.host.bad_evals
    due = self.step % c.checkpoint_every == 0
    if improved or over or due or sigterm.received:
      self._save()
    if sigterm.received:
      self.checkpoints.wait()
      raise Preempted(
        f'stopped by SIGTERM at step {self.step}, which is saved; the same '
        'command continues'
      )
    self._mark = time.monotonic(), self.host.tokens
    return over

  def _update(self, writers: Writers) -> None:
    batch = next(self.batches)
    with jax.profiler.StepTraceAnnotation('train', step_num=self.step):
      self.state, metrics = train_step(
        self.state,
        batch,
        self.key,
        model=self.model,
        loss_spec=self.loss_spec,
        opt_spec=self.opt_spec,
        accumulate=self.config.train.accumulate,
      )
    # Only now, with the next update under way, wait for the previous one.
    self._settle(writers)
    self.step += 1
    self.host.tokens += int(np.sum(batch['mask']))
    self.pending = self.step, metrics

  def _settle(self, writers: Writers) -> None:
    """Fetches, checks and writes the metrics of the newest fetched update.

    Nothing is saved before this has passed.

    Raises:
      TrainingDiverged: something is not finite.
    """
    if self.pending is None:
      return
    step, metrics = self.pending
    self.pending = None
    values = {k: float(v) for k, v in jax.device_get(metrics).items()}
    if not all(
      math.isfinite(values[k]) for k in ('loss', 'grad_norm', 'param_norm')
    ):
      raise TrainingDiverged(self._diverged(step, values))
    c = self.config.train
    if step % c.log_every == 0 or step == c.steps:
      (then, tokens), now = self._mark, time.monotonic()
      self._mark = now, self.host.tokens
      values['tokens_per_s'] = (self.host.tokens - tokens) / (now - then)
      writers.write(step, now - self._start, 'train', values)

  def _diverged(self, step: int, values: dict[str, float]) -> str:
    saved = f'that of step {self.saved_at}' if self.saved_at else 'none'
    return (
      f'training diverged at step {step}: loss {values["loss"]:g}, learning '
      f'rate {values["learning_rate"]:g}, gradient norm '
      f'{values["grad_norm"]:g}; lower optimizer.learning_rate or '
      f'optimizer.clip_norm (last good checkpoint: {saved})'
    )

  def _evaluate(self, writers: Writers) -> bool:
    """Measures the select loss; returns whether it is the lowest so far."""
    c, host = self.config, self.host
    loss = passes.last_nll(
      self.model,
      self.state.params,
      data.eval_batches(
        self.corpus.splits['select'],
        c.data.seq_len,
        c.evaluate.batch_size,
        c.evaluate.max_tokens,
      ),
    )
    if not math.isfinite(loss):
      raise TrainingDiverged(
        f'training diverged at step {self.step}: select loss {loss:g}; '
        'lower optimizer.learning_rate'
      )
    best = math.inf if host.best_loss is None else host.best_loss
    improved = loss < best
    if improved:
      host.best_loss, host.best_step = loss, self.step
    host.bad_evals = 0 if improved else host.bad_evals + 1
    host.evaluated_at = self.step
    writers.write(
      self.step,
      time.monotonic() - self._start,
      'select',
      {'loss': loss, 'best_loss': min(loss, best)},
    )
    return improved

  def _save(self) -> None:
    if self.step == self.saved_at:
      return
    self.host.wall_s = time.monotonic() - self._start
    self.checkpoints.save(
      self.step, self.state, self.batches.get_state(), self.host
    )
    self.saved_at = self.step


def train(config: Any, workdir: str, model: Any, corpus: Any) -> dict[str, Any]:
  """Trains to the end, from wherever the workdir's checkpoints stand.

  Args:
    config: a validated config.
    workdir: gets `checkpoints/` and `metrics.jsonl`.
    model: a body.
    corpus: as `data.load` returns it.

  Returns:
    what `summary` says.

  Raises:
    TrainingDiverged: a loss or gradient norm is not finite; the last good
      checkpoint is untouched.
    Preempted: SIGTERM came. Update and evaluation in progress are completed
      and saved first.
    ConfigError: no checkpoint of the workdir can be read.
  """
  c = config.train
  with Checkpoints(workdir, c.keep) as checkpoints:
    run = _Run(config, workdir, model, corpus, checkpoints)
    with (
      Sigterm() as sigterm,
      Writers(workdir, c.steps, run.step, tensorboard=c.tensorboard) as writers,
    ):
      run.loop(writers, sigterm)
    checkpoints.wait()
  return summary(config, model, run.step, run.host)


def summary(config: Any, model: Any, step: int, host: Host) -> dict[str, Any]:
  """What `results.json` says about training.

  `wall_s` is everything between start and last checkpoint: compilation,
  updates, evaluations on select; `tokens_per_s` is tokens over that.
  """
  return {
    'steps': step,
    'updates': step * OptimizerSpec.from_config(config).updates_per_step,
    'best_step': host.best_step,
    'tokens': host.tokens,
    'flops': flops_per_token(config, model.cfg) * host.tokens,
    'wall_s': host.wall_s,
    'tokens_per_s': host.tokens / host.wall_s if host.wall_s else 0.0,
  }


def flops_per_token(config: Any, cfg: ModelConfig) -> float:
  """Training FLOPs of one token; `cfg` is the config's model."""
  spec = LossSpec.from_config(config)
  return costs.train_flops_per_token(
    cfg,
    spec.supervised_fraction(),
    config.data.seq_len,
    halting=spec.halt_weight > 0,
  )
