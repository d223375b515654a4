"""What `comparison.json` holds: the summary of a study's runs."""

import dataclasses
from typing import Annotated

from ease_jax.evaluate.facts import Provenance
from ease_jax.evaluate.records import Inline, Record
from ease_jax.evaluate.windows import Interval


@dataclasses.dataclass(frozen=True)
class Spread(Record):
  """One quantity over the seeds.

  Attributes:
    mean: of the values.
    sd: sample standard deviation; None for a single value.
    values: one for each seed, in their order.
  """

  mean: float
  sd: float | None
  values: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Sizes(Record):
  """What a model and its training take.

  Attributes:
    params: numbers in the model.
    steps: batches of the training.
    updates: of the parameters.
    tokens: of the training.
    flops: of the training.
    inference_flops: per token of a full pass, exits off.
  """

  params: float
  steps: float
  updates: float
  tokens: float
  flops: float
  inference_flops: float


@dataclasses.dataclass(frozen=True)
class RunRow(Record):
  """The numbers of one run that a comparison is about.

  Attributes:
    seed: of the run.
    select_ppl: perplexity of the last readout on the split that chooses.
    report_ppl: the same on the split that reports.
    chosen_ppl: that of the operating point, on the split that reports.
    chosen_compute: its `compute`, a share of the run's own full pass.
    chosen_flops: the same in FLOPs per token, which variants share.
    sizes: of the run.
  """

  seed: int
  select_ppl: float
  report_ppl: float
  chosen_ppl: float
  chosen_compute: float
  chosen_flops: float
  sizes: Annotated[Sizes, Inline()]


@dataclasses.dataclass(frozen=True)
class Variant(Record):
  """All runs of one variant; quantities as in `RunRow`, sizes as means.

  Attributes:
    name: of the variant.
    changes: fields of its config that are not those of the first variant, as
      `field=value`.
    report_ppl_interval: of the mean over seeds, on other windows.
    readouts: perplexity of each readout on the split that reports, as if it
      answered every token; empty where seeds have not the same number.
  """

  name: str
  changes: tuple[str, ...]
  runs: tuple[RunRow, ...]
  select_ppl: Spread
  report_ppl: Spread
  report_ppl_interval: Interval
  chosen_ppl: Spread
  chosen_compute: Spread
  chosen_flops: Spread
  sizes: Annotated[Sizes, Inline()]
  readouts: tuple[Spread, ...] = ()


@dataclasses.dataclass(frozen=True)
class Change(Record):
  """Of a perplexity: the ratio of two, and its 95 % interval, if any."""

  ratio: float
  interval: Interval | None


@dataclasses.dataclass(frozen=True)
class Pair(Record):
  """One variant held against another, seed by seed.

  Attributes:
    variant: name of the one.
    baseline: name of the other.
    seeds: in which both have run.
    change: of the report split's perplexity; 0.01 = 1 % higher.
    ratio: of the two perplexities, the mean over the seeds of the losses.
    interval: of it, 95 %, over windows and, if there is more than one, seeds;
      None where the two were not measured on the same windows.
    equal: names of the sizes that are the same for both.
    ratios: sizes of the variant, divided by those of the baseline.
    readouts: change at each readout, as `ratio` and `interval` are those of
      the last; empty where the two have not the same number.
  """

  variant: str
  baseline: str
  seeds: tuple[int, ...]
  change: Spread
  ratio: float
  interval: Interval | None
  equal: tuple[str, ...]
  ratios: Sizes
  readouts: tuple[Change, ...] = ()


@dataclasses.dataclass(frozen=True)
class Recovery(Record):
  """How much of own layers' gain it brings to repeat layers, in nats.

  Attributes:
    variant: repeats layers.
    fewer: has these layers once.
    own: has layers of its own for all runs.
    seeds: in which all three have run.
    share: of the gain from `fewer` to `own`, both means over the seeds.
    interval: of it, 95 %, over windows and seeds; None where the three were not
      measured on the same windows.
    exponent: phi, where r runs are worth r^phi such layers (2604.21106): 0 is
      nothing, 1 as much as own ones. None where the share is too far below 0.
  """

  variant: str
  fewer: str
  own: str
  seeds: tuple[int, ...]
  share: float
  interval: Interval | None
  exponent: float | None


@dataclasses.dataclass(frozen=True)
class Depth(Record):
  """A model after fewer runs, beside one that was trained for so many.

  Attributes:
    variant: name of the one.
    run: after which it answers, from 1.
    twin: name of the other, which answers at its end.
    seeds: in which both have run.
    ppl: of the variant on the split that reports, mean over the seeds.
    twin_ppl: the same of the twin.
    ratio: of the two, the mean over the seeds of the losses.
    interval: of it, 95 %, as in `Pair`; None for a variant that makes the
      whole way in fewer runs than it was trained for.
  """

  variant: str
  run: int
  twin: str
  seeds: tuple[int, ...]
  ppl: Spread
  twin_ppl: Spread
  ratio: float
  interval: Interval | None


@dataclasses.dataclass(frozen=True)
class SignalCost(Record):
  """What a signal needs to be so good, on the split that reports.

  Attributes:
    variant: whose exits it decides.
    signal: its name; None for those who know all losses.
    level: perplexity over that of full depth.
    compute: share of the full pass; None where a seed does not reach it.
    closed: share of the way from `max_prob` to those who know all losses, of
      the means over the seeds; None where one of the two does not reach it.
  """

  variant: str
  signal: str | None
  level: float
  compute: Spread | None
  closed: float | None


@dataclasses.dataclass(frozen=True)
class FrontierPoint(Record):
  """A model without exits: FLOPs per token, and perplexity."""

  variant: str
  flops: float
  ppl: float


@dataclasses.dataclass(frozen=True)
class CurvePoint(Record):
  """What exits reach: FLOPs per token, and perplexity."""

  flops: float
  ppl: float


@dataclasses.dataclass(frozen=True)
class Curve(Record):
  """What the exits of a variant reach, from few FLOPs to many."""

  variant: str
  points: tuple[CurvePoint, ...]


@dataclasses.dataclass(frozen=True)
class Stretch(Record):
  """Neighbouring budgets of which the same can be said.

  Attributes:
    low: first of them, FLOPs per token.
    high: last of them.
    ratio: perplexity of the curve over that of the frontier, at the budget
      where they differ most.
    interval: of it, 95 %, over seeds and windows.
  """

  low: float
  high: float
  ratio: float
  interval: Interval


@dataclasses.dataclass(frozen=True)
class Judged(Record):
  """Where a curve lies in relation to the frontier.

  Attributes:
    variant: whose curve.
    seeds: number of seeds.
    chosen: the operating point; None where it is outside the frontier.
    stretches: of the frontier's budgets, from few FLOPs to many; empty where
      the curve has none of them.
  """

  variant: str
  seeds: int
  chosen: Stretch | None
  stretches: tuple[Stretch, ...]


@dataclasses.dataclass(frozen=True)
class Frontier(Record):
  """Quality against compute.

  Attributes:
    points: models without exits, from few FLOPs to many.
    curves: of all other variants.
    judged: these against the points.
  """

  points: tuple[FrontierPoint, ...]
  curves: tuple[Curve, ...]
  judged: tuple[Judged, ...]


@dataclasses.dataclass(frozen=True)
class Comparison(Record):
  """All of `comparison.json`.

  Attributes:
    title: of the page.
    question: what the study settles.
    seeds: one run for each, of every variant.
    same: sizes within this share of each other count as equal.
    variants: those of which a run has succeeded.
    pairs: those of which a seed has succeeded.
    frontier: None where the study asks for none.
    failed: one line for each run that failed.
    smoke: why its runs are too small to say anything; empty where not.
    provenance: of the comparison; its runs have their own.
    recoveries: of repeated layers.
    depths: of models after fewer runs.
    signals: what each needs.
  """

  title: str
  question: str
  seeds: tuple[int, ...]
  same: float
  variants: tuple[Variant, ...]
  pairs: tuple[Pair, ...]
  frontier: Frontier | None
  failed: tuple[str, ...]
  smoke: str
  provenance: Provenance
  recoveries: tuple[Recovery, ...] = ()
  depths: tuple[Depth, ...] = ()
  signals: tuple[SignalCost, ...] = ()
