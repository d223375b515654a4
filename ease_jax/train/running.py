"""What training carries from one step to the next, and its clock."""

import dataclasses
import time
from typing import NamedTuple

import jax

from ease_jax.data import BatchIterator
from ease_jax.processes import Tally
from ease_jax.train.loss import Metrics
from ease_jax.train.saved import Host
from ease_jax.train.update import TrainState

UPDATES = 'updates'  # dispatch, and whatever the devices are waited for
DATA = 'data'  # waits for a batch while the devices had nothing to do
COMPILING = 'compiling'  # first updates of a kind
EVALUATION = 'evaluation'  # on select, its compiling included
CHECKPOINTS = 'checkpoints'  # until a run may go on; they are written meanwhile
PARTS = (UPDATES, DATA, COMPILING, EVALUATION, CHECKPOINTS)
WORKING = (UPDATES, DATA)  # what speeds are measured over


class Unread(NamedTuple):
  """An update whose numbers are on the device, where they may not be yet.

  Attributes:
    metrics: of it.
    counts: of its batch.
    flops: of one of its tokens, counted.
  """

  metrics: Metrics
  counts: Tally
  flops: float

  @property
  def is_going_on(self) -> bool:
    """Whether the devices are still at it."""
    numbers = self.metrics.values()
    arrays = [x for x in numbers if isinstance(x, jax.Array)]
    return not all(
      x.is_ready()  # pyright: ignore[reportAttributeAccessIssue]
      for x in arrays
    )


@dataclasses.dataclass(frozen=True)
class Lap:
  """What a run had spent and done when a line of metrics was written.

  Attributes:
    seconds: as in `Host`.
    flops: as in `Host`.
    tokens: as in `Host`.
  """

  seconds: dict[str, float]
  flops: float
  tokens: int


@dataclasses.dataclass
class Run:
  """What training carries from one step to the next.

  Attributes:
    step: batches done.
    state: parameters and optimizer after them; on the device, where they may
      still be computed.
    batches: those to come.
    host: counts of what has been.
    saved_step: step of the newest checkpoint, 0 before the first.
    peak: FLOP/s of its devices as published; None where that is not known.
    start_s: when the run would have started without interruption, on the
      monotonic clock.
    spent_s: until when seconds were counted, on the same clock.
    lap: when the last line of metrics was written.
  """

  step: int
  state: TrainState
  batches: BatchIterator
  host: Host
  saved_step: int
  peak: float | None = None
  start_s: float = dataclasses.field(init=False)
  spent_s: float = dataclasses.field(init=False)
  lap: Lap = dataclasses.field(init=False)

  def __post_init__(self):
    self.spent_s = time.monotonic()
    self.start_s = self.spent_s - self.host.wall_s
    self.start_lap()

  @property
  def wall_s(self) -> float:
    """Seconds of training so far, interruptions left out."""
    return time.monotonic() - self.start_s

  def spend(self, part: str) -> None:
    """Counts the seconds since the last call as spent on one of PARTS."""
    now_s = time.monotonic()
    seconds = now_s - self.spent_s
    self.spent_s = now_s
    host = self.host
    host.seconds[part] = host.seconds.get(part, 0.0) + seconds
    if part not in WORKING:
      return
    if self.peak is None or host.possible_flops is None:
      host.possible_flops = None
    else:
      host.possible_flops += self.peak * seconds

  def leave_out(self) -> None:
    """Counts the seconds since the last call of `spend` as none of its own."""
    now_s = time.monotonic()
    self.start_s += now_s - self.spent_s
    self.spent_s = now_s

  def start_lap(self) -> None:
    """Measures speeds from here on."""
    host = self.host
    self.lap = Lap(dict(host.seconds), host.counted_flops, host.tokens)

  def speeds(self) -> dict[str, float]:
    """What the clock says of the lap.

    Returns:
      tokens_per_s and flops_per_s while it worked, mfu (model FLOP
      utilisation: flops_per_s by what is published of the devices, where it
      is), and of all its seconds the share of each of PARTS, `share_PART`.
    """
    host = self.host
    seconds = {
      part: host.seconds.get(part, 0.0) - self.lap.seconds.get(part, 0.0)
      for part in PARTS
    }
    working_s = sum(seconds[part] for part in WORKING)
    total_s = sum(seconds.values())
    flops_per_s = (host.counted_flops - self.lap.flops) / working_s
    said = {
      'tokens_per_s': (host.tokens - self.lap.tokens) / working_s,
      'flops_per_s': flops_per_s,
    }
    if self.peak is not None:
      said['mfu'] = flops_per_s / self.peak
    shares = {f'share_{part}': seconds[part] / total_s for part in PARTS}
    return said | shares
