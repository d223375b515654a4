"""Copies of a config that are equal to another one in something, by design."""

import copy

from ease_jax import specs, teacher
from ease_jax.checks import need
from ease_jax.study.study import Config


def train_flops(c: Config, vocab_size: int) -> float:
  """Training FLOPs of a config that is not stopped early."""
  once = specs.from_config(c, vocab_size, specs.ANY_TOKEN).once_flops
  return once + _update_flops(c, vocab_size)


def _update_flops(c: Config, vocab_size: int) -> float:
  """Of all updates, fits and states that are kept left out."""
  run_specs = specs.from_config(c, vocab_size, specs.ANY_TOKEN)
  per_token = run_specs.train_flops + teacher.flops(run_specs)
  return per_token * c.train.steps * c.train.batch_size * c.data.seq_len


def with_equal_training(c: Config, like: Config, vocab_size: int) -> Config:
  """A copy trained for as many steps as cost the training FLOPs of `like`.

  What a copy does once, it does in whatever number of steps.

  Raises:
    ConfigError: that alone costs more.
  """
  once = specs.from_config(c, vocab_size, specs.ANY_TOKEN).once_flops
  left = train_flops(like, vocab_size) - once
  need(
    left > 0,
    f'train.fit_tokens={c.train.fit_tokens} and train.cached_batches='
    f'{c.train.cached_batches} cost {once:.3g} FLOPs, and all training of the '
    f'other config {once + left:.3g}; lower them',
  )
  return stretched(c, left / _update_flops(c, vocab_size))


def with_equal_updates(c: Config, like: Config) -> Config:
  """A copy trained for as many steps as make the updates of `like`."""
  return stretched(c, _updates(like) / _updates(c))


def _updates(c: Config) -> int:
  """Updates of the parameters in a whole run."""
  return c.train.steps * specs.from_config(c).optimizer.updates_per_step


def with_equal_depth(c: Config, like: Config) -> Config:
  """A copy with as many layers as `like` runs a token through.

  Args:
    c: of a plain stack.
    like: of any body.
  """
  c = copy.deepcopy(c)
  last_only = tuple(c.model.readouts) == (c.model.num_layers,)
  c.model.num_layers = specs.from_config(like).body.grid.depth
  c.model.readouts = (c.model.num_layers,) if last_only else ()
  return c


def stretched(c: Config, ratio: float) -> Config:
  """A copy of `ratio` times the steps, with all schedules in proportion.

  What is 0, and so off, stays off.
  """

  def scaled(steps: int) -> int:
    return max(1, round(steps * ratio)) if steps else 0

  c = copy.deepcopy(c)
  c.optimizer.warmup_steps = scaled(c.optimizer.warmup_steps)
  c.loss.schedule_steps = scaled(c.loss.schedule_steps)
  for name in ('steps', 'eval_every', 'checkpoint_every'):
    c.train[name] = scaled(c.train[name])
  return c
