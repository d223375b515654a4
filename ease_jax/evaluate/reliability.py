"""Whether probabilities are frequencies, and what is foretold happens."""

import dataclasses

import numpy as np

from ease_jax.evaluate.records import Record

NUM_BINS = 10


@dataclasses.dataclass(frozen=True)
class Bin(Record):
  """Predictions of about the same confidence.

  Attributes:
    confidence: mean probability of the most likely token.
    accuracy: share of them that were right.
    count: number of them.
  """

  confidence: float
  accuracy: float
  count: int


@dataclasses.dataclass(frozen=True)
class Calibration(Record):
  """Whether the confidence of a readout is its accuracy (1706.04599).

  Attributes:
    segment: of the readout, from 1.
    layer: of the readout, from 1.
    ece: expected calibration error on the report split; 0 is perfect.
    bins: by confidence; empty ones are left out.
  """

  segment: int
  layer: int
  ece: float
  bins: tuple[Bin, ...]


@dataclasses.dataclass(frozen=True)
class GateBin(Record):
  """Tokens of which a gate foretold about the same.

  Attributes:
    foretold: mean of what it said.
    happened: mean of what came of it.
    count: number of them.
  """

  foretold: float
  happened: float
  count: int


@dataclasses.dataclass(frozen=True)
class GateRow(Record):
  """Whether what a gate foretells at a readout happens, on the report split.

  Attributes:
    signal: whose gate.
    what: it foretells, for people.
    segment: of the readout, from 1.
    layer: of the readout, from 1.
    error: mean distance of a bin's two means, weighted by tokens: where
      probabilities are foretold, the expected calibration error.
    bins: as many tokens in each, from the least that was foretold to the most.
  """

  signal: str
  what: str
  segment: int
  layer: int
  error: float
  bins: tuple[GateBin, ...]


def reliability(
  foretold_N: np.ndarray, happened_N: np.ndarray
) -> tuple[float, tuple[GateBin, ...]]:
  """The error of what was foretold, and its bins of as many tokens each."""
  order_N = np.argsort(foretold_N, kind='stable')
  bins = []
  error = 0.0

  for some_n in np.array_split(order_N, min(NUM_BINS, len(order_N))):
    foretold = float(foretold_N[some_n].mean(dtype=np.float64))
    happened = float(happened_N[some_n].mean(dtype=np.float64))
    error += abs(foretold - happened) * len(some_n)
    bins.append(GateBin(foretold, happened, len(some_n)))

  return error / len(order_N), tuple(bins)
