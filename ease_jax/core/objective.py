"""What the grid loss weighs, when, and on which share of the tokens."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ease_jax.checks import (
  Count,
  Depth,
  NotNegative,
  OneOf,
  Range,
  ReadIf,
  Share,
  Size,
  check_fields,
  need,
  plain,
)
from ease_jax.core.distillation import TeachingSpec
from ease_jax.core.freeze import MODEL, NOTHING, Freeze
from ease_jax.core.gating import GateSpec
from ease_jax.core.grid import Grid
from ease_jax.core.observations import EXIT_SCORES
from ease_jax.core.shortcut import ShortcutSpec
from ease_jax.core.weights import (
  SCHEDULES,
  TIMELESS,
  WEIGHTS,
  WeightSpec,
  schedule_factors,
)

NORMALIZATIONS = ('none', 'sum_to_one')
TIMED = tuple(name for name in SCHEDULES if name not in TIMELESS)


@dataclasses.dataclass(frozen=True)
class LossSpec:
  """Which readout weighs what, when, and on which share of the tokens.

  Attributes:
    weight_K: unscheduled weight of each readout.
    schedule: of SCHEDULES.
    schedule_steps: its length in updates.
    rotate_every: period of the rotating schedule.
    normalize: none, or sum_to_one after the schedule was applied.
    token_fraction: random share of tokens for readouts inside a segment.
    exit_threshold: tokens whose score at a readout reaches it stop there, as
      under `copy_state` at inference; 0 = none do.
    exit_score: which score: max_prob; or correct, 1 where the likeliest token
      is the true one and 0 elsewhere.
    exit_rows: share of the rows in which they do.
    per_segment: each segment is an update of its own, and normalised so.
    freeze: what is a constant.
    segments: S.
    carry_backprop: last segments that losses reach through; 1 = their own.
    teaching: what readouts learn, and of whom.
    gating: what gates learn.
    shortcut: what fewer runs with longer steps learn.
  """

  weight_K: tuple[NotNegative, ...]
  schedule: Annotated[str, OneOf(SCHEDULES)] = 'constant'
  schedule_steps: Annotated[Size, ReadIf('schedule', TIMED)] = 0
  rotate_every: Annotated[Count, ReadIf('schedule', ('rotate',))] = 1
  normalize: Annotated[str, OneOf(NORMALIZATIONS)] = 'none'
  token_fraction: Annotated[float, Range(0, 1, above=True)] = 1.0
  exit_threshold: Share = 0.0
  exit_score: Annotated[
    str, OneOf(lambda: EXIT_SCORES), ReadIf('exit_threshold')
  ] = 'max_prob'
  exit_rows: Annotated[Share, ReadIf('exit_threshold')] = 0.5
  per_segment: bool = False
  freeze: Freeze = NOTHING
  segments: Depth = 1
  carry_backprop: Depth = 1
  teaching: TeachingSpec = TeachingSpec()
  gating: GateSpec = GateSpec()
  shortcut: ShortcutSpec = ShortcutSpec()

  def __post_init__(self):
    check_fields('loss', self)
    need(
      self.schedule in TIMELESS or self.schedule_steps >= 1,
      f'loss.schedule={self.schedule} needs loss.schedule_steps >= 1, got '
      f'{self.schedule_steps}',
    )
    self._check_weights()
    self._check_teacher()
    self._check_gates()
    self._check_updates()

  def _check_weights(self) -> None:
    need(
      any(self.weight_K),
      'loss.weights gives every readout the weight 0, so that nothing is '
      'learned; give one of them a weight',
    )
    inner = [self.weight_K[k] for k in self._inside]
    need(
      self.token_fraction == 1 or any(inner),
      f'loss.token_fraction={self.token_fraction} has no effect: no readout '
      'inside a segment has a weight; use 1.0, or other loss.weights',
    )
    early = self.weight_K[:-1]
    need(
      self.schedule == 'constant' or any(early),
      f'loss.schedule={self.schedule} has no effect: no readout before the '
      'last has a weight; use constant, or other loss.weights',
    )
    # All others may be off at once.
    need(
      self.schedule == 'constant'
      or self.normalize == 'none'
      or self.per_segment
      or self.weight_K[-1] > 0,
      f'loss.schedule={self.schedule} may turn all readouts off but the last, '
      'which has no weight: nothing is left to sum to one; give it a weight, '
      'or use loss.normalize=none',
    )
    need(
      not self.exit_threshold or len(self.weight_K) > 1,
      f'loss.exit_threshold={self.exit_threshold} has no effect on a model '
      'with one readout; use 0, or more model.readouts',
    )

  def _check_teacher(self) -> None:
    need(
      not self.teaching.on or any(self.taught_K),
      f'loss.target={self.teaching.target} has no effect: the last readout '
      'teaches, and no earlier one has a weight; give one of them a weight, or '
      'name a loss.teacher',
    )

  def _check_gates(self) -> None:
    gating = self.gating
    gating.check(
      len(self.weight_K),
      self.segments,
      per_segment=self.per_segment,
      exit_rows=self.exit_rows if self.exit_threshold else 0.0,
    )
    need(
      not gating.gate_weighs or all(self.weight_K),
      'loss.gate_weighs=True spreads a loss over all readouts, whose '
      f'loss.weights are {self.weight_K}; use uniform, or segment_ends with '
      'one readout in a segment',
    )
    need(
      not self.frozen or bool(gating.learned),
      f'train.freeze=model leaves nothing to learn: loss.gates={gating.gates} '
      f'with loss.gate_weight={gating.gate_weight}; name a gate, or use '
      'nothing',
    )

  def _check_updates(self) -> None:
    if not self.per_segment:
      return
    need(
      all(any(row) for row in self.weight_SxR),
      f'train.updates=per_segment leaves a segment without a loss: the '
      f'weights are {self.weight_SxR}; use loss.weights=segment_ends, or give '
      'each row of loss.matrix a weight',
    )
    need(
      self.carry_backprop == 1,
      'train.updates=per_segment does not fit model.carry_backprop='
      f'{self.carry_backprop}: an update per segment ends the gradient there; '
      'use model.carry_backprop=1 or train.updates=joint',
    )

  @classmethod
  def from_config(
    cls,
    section: Mapping[str, Any],
    grid: Grid,
    *,
    per_segment: bool,
    freeze: Freeze,
    carry_backprop: int,
  ) -> 'LossSpec':
    """The loss of a config.

    Args:
      section: `loss` of the config.
      grid: the model's cells.
      per_segment: whether each segment is an update of its own.
      freeze: what is a constant.
      carry_backprop: of the model.

    Raises:
      ConfigError: two fields clash.
    """
    fields = plain(section)

    def own(kind: type) -> dict[str, Any]:
      names = [field.name for field in dataclasses.fields(kind)]
      return {name: fields.pop(name) for name in names}

    spec = WeightSpec(**own(WeightSpec))
    weight_K = WEIGHTS[spec.weights](grid.names_K, dataclasses.asdict(spec))
    return cls(
      tuple(weight_K),
      teaching=TeachingSpec(**own(TeachingSpec)),
      gating=GateSpec(**own(GateSpec)),
      shortcut=ShortcutSpec(**own(ShortcutSpec)),
      per_segment=per_segment,
      freeze=freeze,
      segments=grid.segments,
      carry_backprop=carry_backprop,
      **fields,
    )

  @property
  def frozen(self) -> bool:
    """Whether only gates learn."""
    return self.freeze == MODEL

  @property
  def _inside(self) -> list[int]:
    """Readouts that are not the last of their segment."""
    per_segment = len(self.weight_K) // self.segments
    return [k for k in range(len(self.weight_K)) if (k + 1) % per_segment]

  @property
  def weight_SxR(self) -> tuple[tuple[float, ...], ...]:
    """The unscheduled weights, a row for each segment."""
    per_segment = len(self.weight_K) // self.segments
    starts = range(0, len(self.weight_K), per_segment)
    return tuple(self.weight_K[s : s + per_segment] for s in starts)

  def of_segments(self, num: int) -> 'LossSpec':
    """The loss of a model with another number of segments.

    Fewer have the weights of the last ones; more, the first one's several
    times before them.
    """
    row_SxR = self.weight_SxR
    more = num - len(row_SxR)
    rows = row_SxR[:1] * more + row_SxR if more > 0 else row_SxR[-num:]
    return dataclasses.replace(
      self,
      weight_K=tuple(weight for row in rows for weight in row),
      segments=num,
      carry_backprop=min(self.carry_backprop, num),
    )

  @property
  def fits_any_segments(self) -> bool:
    """Whether it is a loss for any number of segments (`of_segments`)."""
    return (
      self.schedule == 'constant'
      and self.token_fraction == 1
      and self.exit_threshold == 0
      and not self.teaching.on
      and self.weight_K[-1] > 0
    )

  @property
  def one_by_one(self) -> bool:
    """Whether no gradient joins two segments: each has one of its own."""
    joined = self.carry_backprop > 1 or self.gating.from_grid or self.frozen
    return self.segments > 1 and not joined

  @property
  def unreached(self) -> int:
    """Segments at the start that nothing is learned from."""
    timed = self.schedule != 'constant'
    stops = self.exit_threshold > 0
    if timed or stops or self.teaching.on or self.gating.learned:
      return 0
    weighted = [any(row) for row in self.weight_SxR]
    return min(weighted.index(True), self.segments - self.carry_backprop)

  def weights_at(self, step: jax.Array) -> jax.Array:
    """Weight of each readout at an update, [K] float32."""
    num = len(self.weight_K)
    factor_K = schedule_factors(
      self.schedule, step, num, self.schedule_steps, self.rotate_every
    )
    weight_K = jnp.asarray(self.weight_K) * factor_K

    if self.normalize == 'none':
      return weight_K
    if not self.per_segment:
      return weight_K / weight_K.sum()

    # Each update by its own segment; a schedule may still lower all of it.
    base_SxR = jnp.asarray(self.weight_SxR)
    weight_SxR = weight_K.reshape(base_SxR.shape)
    return (weight_SxR / base_SxR.sum(1, keepdims=True)).reshape(-1)

  @property
  def gate_scale(self) -> float:
    """Weight of a segment's gate losses beside its readouts' weights."""
    shared = self.normalize == 'sum_to_one' and not self.per_segment
    return self.gating.gate_weight / (self.segments if shared else 1)

  def exits(self, rows: int) -> jax.Array:
    """Rows of a batch in which tokens may stop while training, [B, 1] bool."""
    some = round(self.exit_rows * rows) if self.exit_threshold else 0
    return (jnp.arange(rows) < some)[:, None]

  @property
  def looks(self) -> int:
    """Readouts whose answer gates look at, behind a coda if there is one."""
    return len(self.weight_K) if self.gating.heads else 0

  @property
  def trained_K(self) -> list[float]:
    """Share of tokens that each readout is trained on, schedule ignored."""
    shares = []
    for k, weight in enumerate(self.weight_K):
      share = self.token_fraction if k in self._inside else 1.0
      shares.append(share if weight > 0 else 0.0)
    return shares

  @property
  def taught_K(self) -> list[float]:
    """Share of tokens on which a teacher teaches each readout."""
    return self.teaching.taught(self.trained_K)

  @property
  def asked_K(self) -> list[float]:
    """Heads that each readout runs forward only, for a token.

    That is to decide on an exit, or whether a prediction was right, or to
    teach.
    """
    last = len(self.weight_K) - 1
    for_exits = 1.0 if self.exit_threshold else 0.0
    asked_K = [
      max(for_exits if k < last else 0.0, self.gating.heads)
      for k in range(len(self.weight_K))
    ]
    if self.teaching.own:
      asked_K[last] += self.teaching.heads(self.taught_K)
    return asked_K
