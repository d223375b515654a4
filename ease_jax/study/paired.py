"""Runs held against others of the same seeds, on the same windows."""

from collections.abc import Sequence

import numpy as np

from ease_jax.evaluate.windows import Interval
from ease_jax.report.comparison import Spread
from ease_jax.study import uncertainty
from ease_jax.study.study import Evaluated, Runs


def spread(values: Sequence[float] | np.ndarray) -> Spread:
  """Mean and sample standard deviation of at least one value."""
  values = [float(value) for value in values]
  sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
  return Spread(float(np.mean(values)), sd, tuple(values))


def common_seeds(*runs: Runs) -> list[int]:
  """Seeds in which all have run."""
  first, *others = runs
  return sorted(set(first).intersection(*others))


def at_readout(
  runs: Sequence[Evaluated], k: int = -1
) -> tuple[np.ndarray, np.ndarray]:
  """Losses of a readout summed over stretches [S, W]; their tokens."""
  sum_SxW = np.asarray([run.windows.readouts[k].nll for run in runs])
  return sum_SxW, np.asarray(runs[0].windows.tokens)


def nll_of(runs: Sequence[Evaluated], k: int = -1) -> np.ndarray:
  """Losses of a readout on the split that reports, [S] nats."""
  losses = [run.results.readouts[k].report.nll for run in runs]
  return np.asarray(losses)


def same_windows(*runs: Sequence[Evaluated]) -> bool:
  """Whether all were measured on the same stretches."""
  return len({run.windows.tokens for some in runs for run in some}) == 1


def ratio_interval(
  runs: Sequence[Evaluated],
  base_runs: Sequence[Evaluated],
  k: int = -1,
  base_k: int | None = None,
) -> Interval | None:
  """Of the ratio of perplexities, 95 %, paired by seed and by window.

  Args:
    runs: of the one, in the order of the seeds.
    base_runs: of the other.
    k: readout of the one.
    base_k: readout of the other; None = the same.

  Returns:
    None where they were not measured on the same windows.
  """
  if not same_windows(runs, base_runs):
    return None

  sum_SxW, tokens_W = at_readout(runs, k)
  base_SxW, _ = at_readout(base_runs, k if base_k is None else base_k)
  return uncertainty.of_ratio(uncertainty.of_mean(sum_SxW - base_SxW, tokens_W))
