"""What `results.json` says about a run besides its exits."""

import dataclasses
from typing import Any

from ease_jax.evaluate.records import Record


@dataclasses.dataclass(frozen=True)
class ModelFacts(Record):
  """The model: number of parameters, body, and sizes.

  Attributes:
    params: how many numbers it learned.
    body, segments, layers: as in its config.
    vocab_size: V.
    elastic: whether fewer runs make the whole way, in longer steps.
  """

  params: int
  body: str
  segments: int
  layers: int
  vocab_size: int
  elastic: bool = False


@dataclasses.dataclass(frozen=True)
class RouterRow(Record):
  """A layer with a router, with exits off.

  Attributes:
    segment: of the layer, from 1.
    layer: from 1.
    select: share of the tokens of that split that run it.
    report: the same on the other one.
  """

  segment: int
  layer: int
  select: float
  report: float


@dataclasses.dataclass(frozen=True)
class DataFacts(Record):
  """The data: where from, hash, and the tokens of each split."""

  source: str
  tokenizer: str
  sha256: str
  train_tokens: int
  select_tokens: int
  test_tokens: int


@dataclasses.dataclass(frozen=True)
class TeacherFacts(Record):
  """The run that taught this one.

  Attributes:
    run: its folder, as `loss.teacher` says it.
    checksum: CRC-32 of its parameters.
    flops: of what it says of one training token.
  """

  run: str
  checksum: str
  flops: float


@dataclasses.dataclass(frozen=True)
class TrainFacts(Record):
  """What training took.

  Attributes:
    steps: batches.
    updates: of the parameters.
    best_step: whose parameters are evaluated; None where none was best.
    tokens: supervised.
    flops: forward, backward, a teacher's and the optimizer's products of
      matrices, and what is fitted or kept once, with attention to whole
      windows; counted, not measured (`docs/compute.md`).
    wall_s: seconds, compilation and evaluations included.
    tokens_per_s: tokens over these seconds.
    extended_from: steps at which the run ended before it was extended; None
      where it was not.
    teacher: the run that taught this one; None where none did.
    seconds: by what they were spent on; None in older files. They are those of
      the run since an older version trained it, if one did.
    devices: that trained it last: `8 x TPU v4`; None in older files.
    flops_per_s: of the seconds of updates and waits for data; None in older
      files.
    mfu: that by what is published of the devices; None where it is not known.
  """

  steps: int
  updates: int
  best_step: int | None
  tokens: int
  flops: float
  wall_s: float
  tokens_per_s: float
  extended_from: tuple[int, ...] | None = None
  teacher: TeacherFacts | None = None
  seconds: dict[str, float] | None = None
  devices: str | None = None
  flops_per_s: float | None = None
  mfu: float | None = None

  @property
  def imported(self) -> bool:
    """Whether the parameters came from elsewhere."""
    return self.steps == 0


@dataclasses.dataclass(frozen=True)
class Provenance(Record):
  """What it takes to make the numbers again.

  Attributes:
    command: line of the shell.
    versions: name of a package -> its version.
    commit: of the source; '' outside of git.
    date: of the evaluation, ISO 8601.
    platform: system and device.
    config: what config.json said; None in older files.
  """

  command: str
  versions: dict[str, str]
  commit: str
  date: str
  platform: str
  config: dict[str, Any] | None = None
