"""What a config's section `train` asks for, checked."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from ease_jax.checks import (
  Count,
  Depth,
  OneOf,
  Range,
  ReadIf,
  Size,
  check_fields,
  need,
  plain,
)
from ease_jax.core.freeze import MODEL, Freeze, all_but_exits, all_but_lora
from ease_jax.core.layer_dropout import (
  PHASES,
  SCHEDULES,
  SHAPES,
  LayerDropout,
)
from ease_jax.core.reach import GROWS, REACHES, grown
from ease_jax.core.runs import (
  CONSTANT,
  DRAWING,
  DRAWN_ROWS,
  GROWING,
  When,
  rows_drawn,
)
from ease_jax.core.runs import SCHEDULES as RUNS

UPDATES = ('joint', 'per_segment')
BY_PATHS = 'paths'
KEEPS_MODEL = ('model', 'exits')  # the last readout says what it said
BY_LORA = 'lora'
FREEZES = ('nothing', *KEEPS_MODEL, BY_LORA, BY_PATHS)


@dataclasses.dataclass(frozen=True)
class TrainSpec:
  """How long to train, and what to do on the way.

  Attributes:
    steps: batches in all; 0 = of a model that was imported, or only fitted.
    updates: joint makes one update per batch, per_segment one for each of
      its segments.
    batch_size: B, windows per batch.
    accumulate: micro-batches per update; divides batch_size.
    runs: how many segments of the model are run in an update, of RUNS.
    runs_share: of the steps, until all are.
    runs_most: the highest number that is drawn, as a multiple of S.
    backprop: how far back gradients go in an update, of REACHES.
    backprop_first: how far at first, in what the model's body counts.
    backprop_share: of the steps, until they go as far as the model says.
    layer_dropout: highest share of the rows of a batch that skip a layer.
    layer_dropout_shape: share of the other layers, of SHAPES.
    layer_dropout_schedule: how it changes while training, of SCHEDULES.
    log_every: steps between two lines of metrics.
    eval_every: steps between two evaluations on select.
    checkpoint_every: steps between two checkpoints.
    keep: newest checkpoints that stay, beside the best one.
    patience: evaluations without a better select loss that end the run;
      0 = never.
    tensorboard: also write TensorBoard events.
    profile: write a profiler trace of a few steps after the start.
    init_from: directory of a run whose parameters this one starts with;
      '' = random ones.
    freeze: nothing; model: only gates learn; exits: also what readouts before
      the last have of their own; lora: and products beside the matrices of
      layers; paths: all but some learns.
    freeze_paths: patterns of names of parameters that stay.
    fit_tokens: of the training text, on which the maps of readouts are fitted
      to the last one before the first update; 0 = none are.
    cached_batches: the first so many batches are learned from again and
      again, and the states of the frozen model are made for them once; 0 =
      all batches are new.
    fit_ridge: weight of the distance of a map from the identity, beside the
      mean error of a number of the state.
  """

  steps: Size
  updates: Annotated[str, OneOf(UPDATES)]
  batch_size: Count
  accumulate: Count
  runs: Annotated[str, OneOf(tuple(RUNS))]
  runs_share: Annotated[float, Range(0, 1, above=True), ReadIf('runs', GROWING)]
  runs_most: Annotated[Count, ReadIf('runs', DRAWING)]
  backprop: Annotated[str, OneOf(REACHES)]
  backprop_first: Annotated[Depth, ReadIf('backprop', (GROWS,))]
  backprop_share: Annotated[
    float, Range(0, 1, above=True), ReadIf('backprop', (GROWS,))
  ]
  layer_dropout: Annotated[float, Range(0, 1, below=True)]
  layer_dropout_shape: Annotated[str, OneOf(SHAPES), ReadIf('layer_dropout')]
  layer_dropout_schedule: Annotated[
    str, OneOf(SCHEDULES), ReadIf('layer_dropout')
  ]
  log_every: Count
  eval_every: Count
  checkpoint_every: Count
  keep: Count
  patience: Size
  tensorboard: bool
  profile: bool
  init_from: str
  freeze: Annotated[str, OneOf(FREEZES)]
  freeze_paths: Annotated[tuple[str, ...], ReadIf('freeze', (BY_PATHS,))]
  fit_tokens: Size
  cached_batches: Size
  fit_ridge: Annotated[float, Range(0, above=True), ReadIf('fit_tokens')]

  @classmethod
  def from_config(cls, section: Mapping[str, Any]) -> 'TrainSpec':
    """The spec of a config's section `train`.

    Raises:
      ConfigError: a field has a value that cannot be used.
    """
    return cls(**plain(section))

  def __post_init__(self):
    check_fields('train', self)
    need(
      self.batch_size % self.accumulate == 0,
      f'train.batch_size={self.batch_size} is not divisible by '
      f'train.accumulate={self.accumulate}; change one of them',
    )
    need(
      not self.per_segment or self.accumulate == 1,
      f'train.updates=per_segment does not fit train.accumulate='
      f'{self.accumulate}; use 1',
    )
    need(
      self.runs == CONSTANT or not self.per_segment,
      f'train.runs={self.runs} does not fit train.updates=per_segment, whose '
      'updates are counted by segments; use joint',
    )
    need(
      self.runs == CONSTANT or not self.layer_dropout,
      f'train.runs={self.runs} does not fit train.layer_dropout='
      f'{self.layer_dropout}: both change the layers that run; use one',
    )
    need(
      self.backprop != GROWS or not self.frozen,
      f'train.backprop={self.backprop} has no effect with train.freeze='
      f'{self.freeze}: no gradient reaches the layers; use constant',
    )
    need(
      self.freeze != BY_PATHS or self.freeze_paths != (),
      f'train.freeze={self.freeze} needs patterns of names of parameters, and '
      "train.freeze_paths=(); give some, such as ('layer_*',)",
    )
    need(
      self.fit_tokens == 0 or self.init_from != '',
      f'train.fit_tokens={self.fit_tokens} fits maps to what a trained model '
      "says, and train.init_from='' names none; give the directory of a run",
    )
    need(
      self.cached_batches == 0 or self.frozen,
      f'train.cached_batches={self.cached_batches} keeps states of a model '
      f'that stays, and train.freeze={self.freeze} changes it; use exits, or 0',
    )
    need(
      self.cached_batches == 0 or self.cached_batches < self.steps,
      f'train.cached_batches={self.cached_batches} has no effect with '
      f'train.steps={self.steps}: no batch comes twice; lower it, or use 0',
    )
    need(
      self.freeze == 'nothing' or self.init_from != '',
      f'train.freeze={self.freeze} keeps a model as it is, and '
      "train.init_from='' names none; give the directory of a run",
    )

  @property
  def imported(self) -> bool:
    """Whether nothing is made here: all parameters came from elsewhere."""
    return self.steps == 0 and self.fit_tokens == 0

  @property
  def frozen(self) -> bool:
    """Whether the model stays, and what is beside it learns."""
    return self.freeze in KEEPS_MODEL

  def freezing(self, per_segment: int) -> Freeze:
    """What is never updated.

    Args:
      per_segment: readouts of a segment.
    """
    if self.freeze == 'model':
      return MODEL
    if self.freeze == 'exits':
      return all_but_exits(per_segment)
    if self.freeze == BY_LORA:
      return all_but_lora(per_segment)
    return Freeze(self.freeze_paths)

  @property
  def per_segment(self) -> bool:
    """Whether each segment of a batch makes an update of its own."""
    return self.updates == 'per_segment'

  @property
  def phases(self) -> tuple[LayerDropout | None, ...]:
    """Who skips layers, in equal parts of the run; None = nobody."""
    if not self.layer_dropout:
      return (None,)
    rise = SCHEDULES[self.layer_dropout_schedule]
    num = PHASES if rise(0.0) != rise(1.0) else 1
    return tuple(
      LayerDropout(
        self.layer_dropout * rise((i + 0.5) / num),
        self.layer_dropout_shape,
        self.batch_size // self.accumulate,
      )
      for i in range(num)
    )

  def layer_dropout_at(self, step: int) -> LayerDropout | None:
    """Who skips layers in an update, counted from 0; None = nobody."""
    phases = self.phases
    return phases[step * len(phases) // self.steps]

  def runs_at(self, step: int, segments: int, seed: int) -> int:
    """Segments that are run in an update.

    Args:
      step: of the update, from 0.
      segments: S, of the model.
      seed: of the run.
    """
    return RUNS[self.runs](self._when(step, segments, seed))

  def rows_at(self, step: int, segments: int, seed: int) -> np.ndarray | None:
    """Segments that each row runs in an update, [B] int32; None = all of them.

    Args:
      step, segments, seed: as in `runs_at`.
    """
    if self.runs != DRAWN_ROWS:
      return None
    return rows_drawn(self._when(step, segments, seed))

  def _when(self, step: int, segments: int, seed: int) -> When:
    return When(
      segments,
      place=step / (self.runs_share * self.steps),
      most=self.runs_most * segments,
      random=functools.partial(np.random.default_rng, (seed, step)),
      rows=self.batch_size,
    )

  def backprop_at(self, step: int, full: int) -> int:
    """How far back gradients go in an update, in what the body counts.

    Args:
      step: of the update, from 0.
      full: how far the model says.
    """
    if self.backprop != GROWS:
      return full
    length = self.backprop_share * self.steps
    return grown(step, self.backprop_first, full, length)

  def updates_per_step(self, segments: int) -> int:
    """Updates that each batch makes, given the segments of the model."""
    return segments if self.per_segment else 1
