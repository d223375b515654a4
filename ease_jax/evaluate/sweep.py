"""The sweep: every signal, threshold and policy, and which of them is chosen.

Thresholds come from the config (one for all readouts) and from a search (one
per readout, see `search`). The operating point is chosen on the select split
and reported on another one.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import numpy as np

from ease_jax.checks import (
  ConfigError,
  Count,
  Different,
  NotNegative,
  OneOf,
  Range,
  ReadIf,
  Size,
  Threshold,
  check_fields,
  need,
  one_of,
  plain,
)
from ease_jax.config import Config
from ease_jax.core import policies
from ease_jax.core.policies import OperatingPoint
from ease_jax.core.signals import SIGNALS
from ease_jax.data import SPLITS
from ease_jax.data.pipeline import Batch
from ease_jax.data.task import Task
from ease_jax.evaluate import passes, traces
from ease_jax.evaluate.compute import compute, flops
from ease_jax.evaluate.guarantee import GuaranteeSpec
from ease_jax.evaluate.passes import Dump
from ease_jax.evaluate.results import Cost, Quality, SweepRow
from ease_jax.evaluate.traces import Trace
from ease_jax.evaluate.windows import Sums, in_stretches
from ease_jax.model import Body, Params

Policy = Annotated[str, OneOf(policies.choices)]
LEARNED_FROM = ('train', 'select')  # splits that training looks at
EVALUATE = (  # fields of the section `evaluate`; the others are in `exit`
  'batch_size',
  'select_split',
  'report_split',
  'max_tokens',
  'segments',
  'speed_tokens',
)


@dataclasses.dataclass(frozen=True)
class SweepSpec:
  """Sections `exit` and `evaluate`: what is evaluated, and on what.

  Attributes:
    signals: names of exit signals.
    policies: names of K/V policies.
    thresholds: signal -> what is tried for all readouts; where a signal is
      missing, its own ones are.
    search_points: bisections of the per-readout search; 0 = no search.
    policy: K/V policy of the chosen operating point.
    max_ppl_ratio: see `Choice`.
    max_compute: see `Choice`.
    guarantee: what chooses the operating point instead, if it is on.
    batch_size: windows per evaluation batch.
    select_split: name of the split on which thresholds are chosen.
    report_split: name of the split on which they are reported.
    max_tokens: scored per split, spread evenly; 0 = all.
    segments: perplexity is read after 1 to so many; 0 = twice the model's.
    speed_tokens: decoded on the clock at each point; 0 = none.
  """

  signals: Annotated[tuple[Annotated[str, OneOf(SIGNALS)], ...], Different()]
  policies: Annotated[tuple[Policy, ...], Different()]
  thresholds: Mapping[str, tuple[Threshold, ...]]
  search_points: Size
  policy: Policy
  max_ppl_ratio: Annotated[float, Range(1), ReadIf('max_compute', (0,))]
  max_compute: NotNegative
  guarantee: GuaranteeSpec
  batch_size: Count
  select_split: Annotated[str, OneOf(SPLITS)]
  report_split: Annotated[str, OneOf(SPLITS)]
  max_tokens: Size
  segments: Annotated[int, Range(0, 1000)]
  speed_tokens: Size

  def __post_init__(self):
    check_fields('evaluate', self, *EVALUATE)
    names = [field.name for field in dataclasses.fields(self)]
    check_fields('exit', self, *(n for n in names if n not in EVALUATE))

    need(len(self.signals) > 0, 'exit.signals=() names no signal')
    for signal, values in self.thresholds.items():
      one_of('exit.thresholds', signal, SIGNALS)
      for threshold in values:
        SIGNALS[signal].check_threshold(threshold)
    need(len(self.policies) > 0, 'exit.policies=() names no K/V policy')
    need(
      self.policy in self.policies,
      f'exit.policy={self.policy!r} is not in exit.policies={self.policies}; '
      'add it there',
    )
    swept = {signal: self.tried(signal) for signal in self.signals}
    self.guarantee.check(swept, self.max_compute)
    need(
      self.select_split != self.report_split,
      f'evaluate.select_split={self.select_split!r} equals '
      f'evaluate.report_split={self.report_split!r}: thresholds may not be '
      'reported on the split they were chosen on; use two splits',
    )
    need(
      self.report_split not in LEARNED_FROM,
      f'evaluate.report_split={self.report_split!r}: train made the '
      'parameters and select chose among the checkpoints, so that neither says '
      'what the model is worth; use test',
    )

  @classmethod
  def from_config(cls, config: Config) -> 'SweepSpec':
    """The spec of a whole config."""
    exits = plain(config.exit)
    exits['guarantee'] = GuaranteeSpec.from_config(exits['guarantee'])
    return cls(**exits, **plain(config.evaluate))

  def check_data(self, task: Task) -> None:
    """Raises ConfigError if a split is too short for what is asked of it."""
    name = self.report_split
    need(
      not self.speed_tokens or task.splits[name] > task.seq_len,
      f'the {name} split has {task.splits[name]} tokens, less than a window of '
      f'data.seq_len={task.seq_len} to time; set evaluate.speed_tokens=0',
    )

  def tried(self, signal: str) -> tuple[float, ...]:
    """Thresholds of a signal that are tried for all readouts."""
    return self.thresholds.get(signal, SIGNALS[signal].sweep)

  @property
  def choice(self) -> 'Choice':
    return Choice(self.max_ppl_ratio, self.max_compute)

  @property
  def rule(self) -> str:
    """How the operating point is chosen, for people."""
    return str(self.guarantee if self.guarantee.on else self.choice)


@dataclasses.dataclass(frozen=True)
class Choice:
  """What makes one row of the select split the operating point.

  Attributes:
    max_ppl_ratio: lowest compute within this many times the full perplexity;
    max_compute: or, unless 0, lowest perplexity within this compute.
  """

  max_ppl_ratio: float
  max_compute: float

  def __str__(self) -> str:
    if self.max_compute:
      return f'lowest select ppl at compute <= {self.max_compute:g}'
    return f'lowest compute with select ppl <= {self.max_ppl_ratio:g} x full'

  def allows(self, row: SweepRow, full_ppl: float) -> bool:
    """Whether a row may be chosen.

    Args:
      row: of the select split.
      full_ppl: that split's perplexity with exits off.
    """
    if self.max_compute:
      return row.cost.compute <= self.max_compute
    return row.quality.ppl <= self.max_ppl_ratio * full_ppl

  def wants_more_exits(self, row: SweepRow, full_ppl: float) -> bool:
    """Whether the best point has a higher price of compute than this one."""
    return self.allows(row, full_ppl) != bool(self.max_compute)

  def best(self, rows: Sequence[SweepRow], policy: str) -> int:
    """Index of the chosen row, of those with exits off or with a policy.

    Args:
      rows: of the select split, the one with exits off among them.
      policy: name of the K/V policy that is deployed.

    Raises:
      ConfigError: no row is within `max_compute`.
    """
    full_ppl = next(row.quality.ppl for row in rows if row.point is None)
    own = [
      i
      for i, row in enumerate(rows)
      if row.point is None or row.point.policy == policy
    ]
    allowed = [i for i in own if self.allows(rows[i], full_ppl)]

    if not allowed:
      cheapest = min(rows[i].cost.compute for i in own)
      raise ConfigError(
        f'exit.max_compute={self.max_compute:g} is below the cheapest point '
        f'of the sweep, {cheapest:.3f}; raise it or add lower exit.thresholds'
      )
    if self.max_compute:
      return min(allowed, key=lambda i: rows[i].quality.ppl)
    return min(allowed, key=lambda i: rows[i].cost.compute)


class Evaluator:
  """One split of a task with its dump; measures points on it.

  Attributes:
    role: of the split: `select` or `report`.
    split: its name.
    model: a body.
    params: its parameters.
    task: what is evaluated.
    dump: every readout of every token of the split.
  """

  def __init__(
    self,
    role: str,
    spec: SweepSpec,
    model: Body,
    params: Params,
    task: Task,
    max_tokens: int | None = None,
  ):
    """Reads all readouts of the split once.

    Args:
      role: of the split.
      spec: its name, the signals and the batches.
      model: a body.
      params: its parameters.
      task: whose split it is.
      max_tokens: instead of the spec's; None = the spec's.
    """
    self.role = role
    self.split = getattr(spec, f'{role}_split')
    self.model = model
    self.params = params
    self.task = task
    self._batch_size = spec.batch_size
    self._max_tokens = spec.max_tokens if max_tokens is None else max_tokens
    self.dump = self.dump_of(model, spec.signals)

  def batches(self) -> Iterator[Batch]:
    """The split, always the same."""
    return self.task.eval_batches(
      self.split, self._batch_size, self._max_tokens
    )

  def dump_of(self, model: Body, signals: Sequence[str] = ()) -> Dump:
    """A dump of this split by another model with the same parameters."""
    return passes.grid_dump(model, self.params, self.batches, signals)

  def trace(self, point: OperatingPoint | None) -> Trace:
    """Where the tokens of the split stop; None = exits off."""
    return traces.trace(self.model, self.params, self.batches, self.dump, point)

  def measure(self, point: OperatingPoint | None) -> SweepRow:
    """A row of the sweep; None = exits off."""
    return self.row(point, self.trace(point))

  def row(self, point: OperatingPoint | None, trace: Trace) -> SweepRow:
    """The row of a point whose trace is there already."""
    return SweepRow(
      split=self.role,
      point=point,
      quality=self.quality(trace.nll_RxT, trace.correct_RxT),
      cost=self.cost(point, trace),
    )

  def quality(self, nll_RxT: np.ndarray, correct_RxT: np.ndarray) -> Quality:
    """How good predictions for the split's tokens are."""
    dump = self.dump
    values = self.task.quality(
      nll_RxT, correct_RxT, dump.mask_RxT, dump.target_RxT
    )
    return Quality(**values)

  def cost(self, point: OperatingPoint | None, trace: Trace) -> Cost:
    """What a trace of the split costs."""
    values = compute(self.model, point, trace, self.dump.mask_RxT)
    values['exit_fraction'] = tuple(values['exit_fraction'])
    return Cost(**values)

  def sums(self, point: OperatingPoint | None, trace: Trace) -> Sums:
    """A trace of the split, summed over its stretches."""
    mask_RxT = self.dump.mask_RxT
    spent = flops(self.model, point, trace, mask_RxT)
    return Sums(
      nll=tuple(in_stretches(trace.nll_RxT, mask_RxT).tolist()),
      flops=tuple(in_stretches(spent.total_RxT, mask_RxT).tolist()),
    )

  def readout(self, k: int, dump: Dump | None = None) -> Quality:
    """Quality of always answering at readout k, deeper states the true ones.

    Args:
      k: the readout, from 0.
      dump: of this split by another model; None = by this one.
    """
    dump = dump or self.dump
    return self.quality(dump.nll_KxRxT[k], dump.correct_KxRxT[k])


def scalar_points(
  spec: SweepSpec, unit: str
) -> Iterator[OperatingPoint | None]:
  """Exits off, then policies x signals x thresholds.

  Args:
    spec: what is tried.
    unit: what exits as one, 'token' or 'sequence'.
  """
  yield None
  for policy in spec.policies:
    for signal in spec.signals:
      for threshold in spec.tried(signal):
        yield OperatingPoint(signal, policy, threshold, unit)
