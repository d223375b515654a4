"""What training carries from one step to the next, and its clock."""

import dataclasses
import time

from ease_jax.data import BatchIterator
from ease_jax.train.saved import Host
from ease_jax.train.update import TrainState


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
    start_s: when the run would have started without interruption, on the
      monotonic clock.
    lap_s: when the speed was last measured, on the same clock.
    lap_tokens: training tokens seen by then.
  """

  step: int
  state: TrainState
  batches: BatchIterator
  host: Host
  saved_step: int
  start_s: float = dataclasses.field(init=False)
  lap_s: float = dataclasses.field(init=False)
  lap_tokens: int = dataclasses.field(init=False)

  def __post_init__(self):
    self.start_s = time.monotonic() - self.host.wall_s
    self.start_lap()

  @property
  def wall_s(self) -> float:
    """Seconds of training so far, interruptions left out."""
    return time.monotonic() - self.start_s

  @property
  def tokens_per_s(self) -> float:
    """Training tokens per second since the lap started."""
    tokens = self.host.tokens - self.lap_tokens
    return tokens / (time.monotonic() - self.lap_s)

  def start_lap(self) -> None:
    """Measures the speed from here on."""
    self.lap_s = time.monotonic()
    self.lap_tokens = self.host.tokens
