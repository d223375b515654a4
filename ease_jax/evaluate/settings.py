"""A setting of the exits: how good its answers are, and what they cost."""

import dataclasses
from typing import Annotated

import numpy as np

from ease_jax.core.policies import OFF_JSON, OperatingPoint
from ease_jax.evaluate.records import Inline, Record

Point = Annotated[OperatingPoint | None, Inline(OFF_JSON)]


def exits_early(point: OperatingPoint | None) -> bool:
  """Whether a token may stop before the last readout."""
  if point is None:
    return False
  early = point.threshold
  if isinstance(early, tuple):
    *early, _ = early
  return bool(np.any(np.asarray(early) < np.inf))


@dataclasses.dataclass(frozen=True)
class Quality(Record):
  """How good the answers of one setting are.

  Attributes:
    nll: mean negative log-likelihood of a token, nats.
    ppl: perplexity, exp(nll).
    bits_per_byte: bits that a byte of the text takes.
    accuracy: share of the tokens that were the most likely ones.
  """

  nll: float
  ppl: float
  bits_per_byte: float
  accuracy: float


@dataclasses.dataclass(frozen=True)
class Cost(Record):
  """What the answers of one setting cost.

  Attributes:
    compute: FLOPs per token that any decoder must do at least, divided by
      those of this model's own full pass: layers, heads that are asked or
      answer, attention at the real context, keys and values of skipped layers
      and layers made up for later tokens (`docs/compute.md`).
    layer_fraction: share of the layers that a token runs on average.
    mean_readout: mean number of the readout that answers, from 1.
    exit_fraction: share of the tokens that each readout answers.
    compute_uncharged: `compute` without the layers that exited tokens make up
      for later ones; None where a policy makes up none.
  """

  compute: float
  layer_fraction: float
  mean_readout: float
  exit_fraction: tuple[float, ...]
  compute_uncharged: float | None = None


InlineQuality = Annotated[Quality, Inline()]
InlineCost = Annotated[Cost, Inline()]
