"""What a config's section `train` asks for, checked."""

import dataclasses
from typing import Any

import ml_collections

from ease_jax.checks import at_least_one, need, one_of

UPDATES = ('joint', 'per_segment')


@dataclasses.dataclass(frozen=True)
class TrainSpec:
  """How long to train, and what to do on the way.

  Attributes:
    steps: batches in all.
    updates: joint makes one update per batch, per_segment one for each of
      its segments.
    batch_size: B, windows per batch.
    accumulate: micro-batches per update; divides batch_size.
    log_every: steps between two lines of metrics.
    eval_every: steps between two evaluations on select.
    checkpoint_every: steps between two checkpoints.
    keep: newest checkpoints that stay, beside the best one.
    patience: evaluations without a better select loss that end the run;
      0 = never.
    tensorboard: also write TensorBoard events.
    profile: write a profiler trace of a few early steps.
  """

  steps: int
  updates: str
  batch_size: int
  accumulate: int
  log_every: int
  eval_every: int
  checkpoint_every: int
  keep: int
  patience: int
  tensorboard: bool
  profile: bool

  @classmethod
  def from_config(cls, section: ml_collections.ConfigDict) -> 'TrainSpec':
    """The spec of a config's section `train`.

    Raises:
      ConfigError: a field has a value that cannot be used.
    """
    fields: dict[str, Any] = dict(section)
    return cls(**fields)

  def __post_init__(self):
    at_least_one(
      'train',
      self,
      'steps',
      'batch_size',
      'accumulate',
      'log_every',
      'eval_every',
      'checkpoint_every',
      'keep',
    )
    need(
      self.batch_size % self.accumulate == 0,
      f'train.batch_size={self.batch_size} is not divisible by '
      f'train.accumulate={self.accumulate}; change one of them',
    )
    one_of('train.updates', self.updates, UPDATES)
    need(
      not self.per_segment or self.accumulate == 1,
      f'train.updates=per_segment does not fit train.accumulate='
      f'{self.accumulate}; use 1',
    )

  @property
  def per_segment(self) -> bool:
    """Whether each segment of a batch makes an update of its own."""
    return self.updates == 'per_segment'

  def updates_per_step(self, segments: int) -> int:
    """Updates that each batch makes, given the segments of the model."""
    return segments if self.per_segment else 1
