"""What `results.json` holds.

The two splits of an evaluation are called by their roles: thresholds are
chosen on `select` and reported on `report`. `Chosen` says which split of the
data has which role.
"""

import dataclasses
import pathlib

from ease_jax.checks import ConfigError
from ease_jax.evaluate.facts import (
  DataFacts,
  ModelFacts,
  Provenance,
  RouterRow,
  TrainFacts,
)
from ease_jax.evaluate.promises import Promise
from ease_jax.evaluate.records import Record, parse, read_json
from ease_jax.evaluate.reliability import Bin as Bin
from ease_jax.evaluate.reliability import Calibration as Calibration
from ease_jax.evaluate.reliability import GateRow
from ease_jax.evaluate.settings import Cost as Cost
from ease_jax.evaluate.settings import InlineCost, InlineQuality, Point
from ease_jax.evaluate.settings import Quality as Quality
from ease_jax.evaluate.settings import exits_early as exits_early
from ease_jax.evaluate.windows import Interval

FILE = 'results.json'
SELECT = 'select'
REPORT = 'report'
ROLES = (SELECT, REPORT)
MODE = 'evaluate'  # of ease_jax.main, which writes it


@dataclasses.dataclass(frozen=True)
class SweepRow(Record):
  """One setting of the exits on one split.

  Attributes:
    split: its role.
    point: the setting; None = exits off, one row for each split.
    quality: of the answers.
    cost: of the answers.
  """

  split: str
  point: Point
  quality: InlineQuality
  cost: InlineCost


@dataclasses.dataclass(frozen=True)
class ReadoutRow(Record):
  """One readout, if it answered every token.

  Attributes:
    segment: which run of the body, from 1.
    layer: which layer of the segment, from 1.
    flops_static: FLOPs per token of a static exit, which is charged as a
      model that is cut off here: its layers and one head.
    compute_static: the same, divided by the FLOPs of the full pass.
    layer_fraction: share of the layers that are run.
    select: its quality on the split that chooses.
    report: its quality on the split that reports.
    ppl_vs_full: perplexity on the latter, divided by that of full depth.
    ppl_vs_full_interval: over windows.
  """

  segment: int
  layer: int
  flops_static: float
  compute_static: float
  layer_fraction: float
  select: Quality
  report: Quality
  ppl_vs_full: float
  ppl_vs_full_interval: Interval


@dataclasses.dataclass(frozen=True)
class ChosenSide(Record):
  """The chosen operating point on one split.

  Attributes:
    quality: of the answers.
    cost: of the answers.
    ppl_vs_full: perplexity divided by that with exits off.
    tokens: scored.
    intervals: over windows; None on the split that chose, which has chosen
      what looks good there.
  """

  quality: InlineQuality
  cost: InlineCost
  ppl_vs_full: float
  tokens: int
  intervals: 'Intervals | None' = None


@dataclasses.dataclass(frozen=True)
class Intervals(Record):
  """95 % intervals of an operating point, over windows.

  Attributes:
    full_ppl: of the perplexity with exits off.
    ppl: of the perplexity.
    ppl_vs_full: of their ratio; both on the same windows.
    compute: of the compute.
  """

  full_ppl: Interval
  ppl: Interval
  ppl_vs_full: Interval
  compute: Interval


@dataclasses.dataclass(frozen=True)
class Chosen(Record):
  """The operating point that was chosen on `select`.

  Attributes:
    rule: how it was chosen, for people.
    policy: the K/V policy among whose settings it was chosen.
    point: the setting; None = exits off.
    select_split: name of the split of the data that chooses.
    report_split: name of the split of the data that reports.
    select: what the point does on the one.
    report: what it does on the other.
    guarantee: what it promises; None where nothing is.
  """

  rule: str
  policy: str
  point: Point
  select_split: str
  report_split: str
  select: ChosenSide
  report: ChosenSide
  guarantee: Promise | None = None

  @property
  def exits(self) -> bool:
    """Whether a token may stop before the last readout."""
    return exits_early(self.point)

  @property
  def promise(self) -> tuple[str, str]:
    """What is promised, and what came of it; nothing where nothing is."""
    if self.guarantee is None:
      return '', ''
    select = self.select_split
    outcome = self.guarantee.outcome(select, self.report_split, self.exits)
    return self.guarantee.promise(select), outcome


@dataclasses.dataclass(frozen=True)
class ClairvoyantRow(Record):
  """A point of the clairvoyant frontier.

  Every token is answered where loss + price x compute is lowest, by somebody
  who knows all losses and asks nothing. Deeper states are the true ones: a
  point of the sweep, whose exits change what later tokens see, may lie below.

  Attributes:
    split: its role.
    kv_policy: whose keys and values of skipped layers are charged.
    price: nats that one full pass is worth.
    quality: of the answers.
    cost: of the answers: layers, the head that answers, keys and values.
  """

  split: str
  kv_policy: str
  price: float
  quality: InlineQuality
  cost: InlineCost


@dataclasses.dataclass(frozen=True)
class SegmentRow(Record):
  """Quality at the end of a segment, all tokens having run so many.

  Attributes:
    segments: how many; may be more than the model was trained with.
    select: quality on the split that chooses.
    report: quality on the split that reports.
  """

  segments: int
  select: Quality
  report: Quality


@dataclasses.dataclass(frozen=True)
class SpeedPoint(Record):
  """What the decoder does at one setting of the exits.

  Attributes:
    point: the setting; None = without exits.
    ppl: perplexity of the report split.
    ppl_vs_full: the same, divided by that with exits off.
    tokens_per_second: median of the rounds.
    tokens_per_second_low: lower quartile of the rounds.
    tokens_per_second_high: upper quartile of the rounds.
    speedup: tokens per second, divided by those without exits.
    expected_speedup: what the FLOPs promise, compute_decoder without exits
      (1, unless routers keep tokens out of cells) over that of the point.
    compute_decoder: FLOPs per token of this decoder over a full pass's.
    chosen: whether this is the operating point of the run.
  """

  point: Point
  ppl: float
  ppl_vs_full: float
  tokens_per_second: float
  tokens_per_second_low: float
  tokens_per_second_high: float
  speedup: float
  expected_speedup: float
  compute_decoder: float
  chosen: bool


@dataclasses.dataclass(frozen=True)
class BreakEven(Record):
  """When asking at a readout whether to stop has paid for itself.

  Attributes:
    segment: of the readout, from 1.
    layer: of the readout, from 1.
    needed: share of the tokens arriving there that must stop.
    stopped: share that does, at the chosen point.
    active: whether the chosen point asks there at all.
  """

  segment: int
  layer: int
  needed: float
  stopped: float
  active: bool


@dataclasses.dataclass(frozen=True)
class Speed(Record):
  """The decoder on the clock, over the report split.

  Attributes:
    tokens: decoded at each point in each round.
    rounds: in each of them, all points take turns.
    batch_size: rows decoded together.
    context: tokens of a window, from whose first on it is decoded.
    device: kind of the machine's.
    head_layers: FLOPs of a head, divided by those of a layer.
    points: without exits first, then the chosen one, then others; last the one
      where every readout is asked and none answers.
    break_even: of all readouts but the last; empty where no stop saves FLOPs.
  """

  tokens: int
  rounds: int
  batch_size: int
  context: int
  device: str
  head_layers: float
  points: tuple[SpeedPoint, ...]
  break_even: tuple[BreakEven, ...]


@dataclasses.dataclass(frozen=True)
class Results(Record):
  """All of `results.json`.

  Attributes:
    seed: of the run.
    model, data, train, provenance: facts about it.
    readouts: in order of cost, the last of which always answers.
    sweep: every setting on `select`, then every setting on `report`.
    chosen: the operating point.
    clairvoyant: the frontier of those who know all losses, on both splits.
    calibration: of every readout.
    segments: after 1, 2, ... of them; empty for models of one.
    speed: None where it was not measured.
    routers: layers that only some tokens run; empty where all run all.
    gates: whether what they foretell happens; empty where none foretells.
  """

  seed: int
  model: ModelFacts
  data: DataFacts
  train: TrainFacts
  readouts: tuple[ReadoutRow, ...]
  sweep: tuple[SweepRow, ...]
  chosen: Chosen
  clairvoyant: tuple[ClairvoyantRow, ...]
  calibration: tuple[Calibration, ...]
  segments: tuple[SegmentRow, ...]
  speed: Speed | None
  provenance: Provenance
  routers: tuple[RouterRow, ...] = ()
  gates: tuple[GateRow, ...] = ()

  def off(self, split: str) -> SweepRow:
    """The row with exits off, on the split of that role."""
    return next(
      row for row in self.sweep if row.split == split and row.point is None
    )


def load(path: pathlib.Path) -> Results:
  """The results of a run.

  Raises:
    ConfigError: the file is missing, damaged or of an older version.
  """
  data = read_json(path, MODE)
  if isinstance(data, dict) and 'test' in (data.get('chosen') or {}):
    raise ConfigError(
      f'{path} is of an older version, in which the split that reports was '
      f'always called "test"; run --mode={MODE} again'
    )
  return parse(Results, data, path, MODE)
