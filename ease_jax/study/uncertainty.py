"""How certain a mean over some seeds and some windows is.

There are two sources of chance: another seed would have made another model,
and other text of the same kind would have been easier or harder. With three or
five seeds a bootstrap of seeds would be far too narrow, so that their half of
the interval is that of a t-test; that of the windows is a bootstrap. The two
half-widths add up as squares do, so that neither makes the other narrower.
"""

import math
from collections.abc import Sequence

import numpy as np
import scipy.special

from ease_jax.evaluate.windows import LEVEL, Interval, draws, per_token


def combined(
  value_S: Sequence[float] | np.ndarray, drawn_B: np.ndarray, num_windows: int
) -> Interval:
  """Of a mean over seeds.

  Args:
    value_S: one for each seed, on all windows. A single seed says nothing of
      others: the interval is then one over windows alone.
    drawn_B: the mean over the seeds, on windows drawn anew.
    num_windows: W, stretches that are drawn from.
  """
  half = _quantile(num_windows - 1) * float(np.std(drawn_B, ddof=1))
  if len(value_S) > 1:
    error = float(np.std(value_S, ddof=1)) / math.sqrt(len(value_S))
    half = math.hypot(half, _quantile(len(value_S) - 1) * error)

  mean = float(np.mean(value_S))
  return Interval(mean - half, mean + half)


def _quantile(freedom: int) -> float:
  """Of Student's t, for both tails together."""
  return float(scipy.special.stdtrit(max(freedom, 1), (1 + LEVEL) / 2))


def of_mean(sum_SxW: np.ndarray, tokens_W: np.ndarray) -> Interval:
  """Of a mean per token.

  Args:
    sum_SxW: of what is averaged, for each seed and stretch of windows.
    tokens_W: tokens of each stretch.
  """
  value_S = sum_SxW.sum(1) / tokens_W.sum()
  drawn_BxW = draws(len(tokens_W))
  drawn_B = per_token(drawn_BxW, sum_SxW.mean(0), tokens_W)
  return combined(value_S, drawn_B, len(tokens_W))


def of_ratio(interval: Interval) -> Interval:
  """Of e to the power of what an interval is of."""
  return Interval(math.exp(interval.low), math.exp(interval.high))
