"""Intervals: how far would numbers move with other text of the same kind?

Tokens of one text are alike, so that whole stretches of the report split are
drawn anew, with replacement, and never single tokens (the bootstrap). Two
settings are compared on the same draws, since they have read the same text.
`windows.json` holds the sums from which studies do the same over many runs.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from ease_jax.checks import need
from ease_jax.evaluate.records import Record, parse, read_json

FILE = 'windows.json'
MODE = 'evaluate'  # of ease_jax.main, which writes it
STRETCHES = 128  # at most; neighbouring windows are drawn together
RESAMPLES = 1000
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Interval(Record):
  """Where a number lies in 95 % of what might have been drawn instead.

  Attributes:
    low: the 2.5th percentile.
    high: the 97.5th.
  """

  low: float
  high: float

  def excludes(self, value: float) -> bool:
    """Whether a value lies outside."""
    return not self.low <= value <= self.high


@dataclasses.dataclass(frozen=True)
class Sums(Record):
  """One setting on every stretch of the report split.

  Attributes:
    nll: summed loss, nats.
    flops: summed FLOPs, as `compute` counts them.
  """

  nll: tuple[float, ...]
  flops: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Windows(Record):
  """All of `windows.json`: sums over stretches of the report split.

  Attributes:
    split: name of the split of the data.
    full_flops: FLOPs of one token's full pass.
    tokens: scored in each stretch.
    readouts: static exits, in the order of `results.json`.
    points: the settings of the sweep, in the order of its report rows.
  """

  split: str
  full_flops: float
  tokens: tuple[int, ...]
  readouts: tuple[Sums, ...]
  points: tuple[Sums, ...]

  def ppl(self, of: Sums) -> Interval:
    """Of a perplexity."""
    drawn_BxW = draws(len(self.tokens))
    return interval(np.exp(self._per_token(drawn_BxW, of.nll)))

  def ppl_ratio(self, of: Sums, base: Sums) -> Interval:
    """Of one perplexity over another, both on the same draws."""
    drawn_BxW = draws(len(self.tokens))
    difference_W = np.subtract(of.nll, base.nll)
    return interval(np.exp(self._per_token(drawn_BxW, difference_W)))

  def compute(self, of: Sums) -> Interval:
    """Of `compute`."""
    drawn_BxW = draws(len(self.tokens))
    return interval(self._per_token(drawn_BxW, of.flops) / self.full_flops)

  def _per_token(
    self, drawn_BxW: np.ndarray, sum_W: Sequence[float] | np.ndarray
  ) -> np.ndarray:
    return per_token(drawn_BxW, np.asarray(sum_W), np.asarray(self.tokens))


def draws(num: int, resamples: int = RESAMPLES) -> np.ndarray:
  """How often each of `num` stretches is drawn, [B, W] float64.

  Always the same ones: runs that have read the same text are paired.
  """
  rng = np.random.default_rng(0)
  counts_BxW = rng.multinomial(num, np.full(num, 1 / num), size=resamples)
  return counts_BxW.astype(np.float64)


def per_token(
  drawn_BxW: np.ndarray, sum_W: np.ndarray, tokens_W: np.ndarray
) -> np.ndarray:
  """Means over the tokens of what was drawn, [B].

  Args:
    drawn_BxW: how often each stretch was.
    sum_W: of what is averaged, in each stretch.
    tokens_W: tokens of each stretch.
  """
  return (drawn_BxW @ sum_W) / (drawn_BxW @ tokens_W)


def interval(value_B: np.ndarray) -> Interval:
  """The middle of what values of all draws come to."""
  tail = (1 - LEVEL) / 2
  low, high = np.quantile(value_B, [tail, 1 - tail])
  return Interval(float(low), float(high))


def in_stretches(x_RxT: np.ndarray, mask_RxT: np.ndarray) -> np.ndarray:
  """Sums over neighbouring rows, [W] float64.

  Args:
    x_RxT: of every token.
    mask_RxT: 0 for padding; rows of nothing else are left out.
  """
  real_R = (mask_RxT > 0).any(1)
  x_R = np.where(mask_RxT > 0, x_RxT, 0.0).sum(1, dtype=np.float64)[real_R]
  parts = np.array_split(x_R, min(STRETCHES, len(x_R)))
  return np.asarray([part.sum() for part in parts])


def load(path: pathlib.Path) -> Windows:
  """The sums of a run.

  Raises:
    ConfigError: the file is missing, damaged or of an older version.
  """
  return parse(Windows, read_json(path, MODE), path, MODE)


def check(path: pathlib.Path, windows: Windows, nll_K: Sequence[float]) -> None:
  """Refuses sums that are not of a run's results.

  Args:
    path: of the file, for the message.
    windows: what it holds.
    nll_K: loss of each readout on the report split, as the results have it.

  Raises:
    ConfigError: the losses differ.
  """
  tokens = sum(windows.tokens)
  mean_K = [sum(readout.nll) / tokens for readout in windows.readouts]
  need(
    len(mean_K) == len(nll_K) and np.allclose(mean_K, nll_K, rtol=1e-5),
    f'{path} is not of the results beside it: its readouts have losses of '
    f'{mean_K}, theirs {list(nll_K)}; run --mode={MODE} again',
  )
