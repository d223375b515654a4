"""Copies of a config that are equal to another one in something, by design."""

import copy

from ease_jax import model as model_lib
from ease_jax.core.objective import LossSpec
from ease_jax.model import Body
from ease_jax.study.study import Config


def train_flops(c: Config, vocab_size: int) -> float:
  """Training FLOPs of a config that is not stopped early."""
  body = _body(c, vocab_size)
  loss = LossSpec.from_config(
    c.loss,
    body.grid,
    per_segment=c.train.updates == 'per_segment',
    carry_backprop=c.model.carry_backprop,
  )
  prices = body.costs_of_windows(c.data.seq_len)
  per_token = prices.train_per_token(
    loss.trained_K, loss.asked_K, ahead=loss.ahead
  )
  return per_token * c.train.steps * c.train.batch_size * c.data.seq_len


def _body(c: Config, vocab_size: int) -> Body:
  cfg = model_lib.model_config(c.model, vocab_size, gates=c.loss.gates)
  return model_lib.build(cfg)


def with_equal_training(c: Config, like: Config, vocab_size: int) -> Config:
  """A copy trained for as many steps as cost the training FLOPs of `like`."""
  ratio = train_flops(like, vocab_size) / train_flops(c, vocab_size)
  return stretched(c, ratio)


def with_equal_updates(c: Config, like: Config) -> Config:
  """A copy trained for as many steps as make the updates of `like`."""
  return stretched(c, _updates(like) / _updates(c))


def _updates(c: Config) -> int:
  """Updates of the parameters in a whole run."""
  if c.train.updates == 'per_segment':
    return c.train.steps * c.model.segments
  return c.train.steps


def with_equal_depth(c: Config, like: Config) -> Config:
  """A copy with as many layers as `like` runs a token through.

  Args:
    c: of a plain stack.
    like: of any body.
  """
  c = copy.deepcopy(c)
  last_only = tuple(c.model.readouts) == (c.model.num_layers,)
  c.model.num_layers = _body(like, vocab_size=1).grid.depth
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
