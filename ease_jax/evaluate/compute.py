"""What exits cost, and what readouts know: numbers of a trace or a dump."""

from typing import Any, NamedTuple

import numpy as np

from ease_jax.core.policies import OperatingPoint, thresholds
from ease_jax.core.spec import CAUSAL
from ease_jax.evaluate.passes import Dump
from ease_jax.evaluate.traces import Trace
from ease_jax.model import Body


def compute(
  model: Body,
  point: OperatingPoint | None,
  trace: Trace,
  mask_RxT: np.ndarray,
) -> dict[str, Any]:
  """What the exits of a trace cost, relative to this model's full pass.

  Args:
    model: a body.
    point: where tokens exited; None = nowhere.
    trace: where they did.
    mask_RxT: 0 for padding.

  Returns:
    compute (FLOPs per token over those of a full pass: the least that any
    decoder must do under the policy), layer_fraction, mean_readout (1-based),
    exit_fraction [K]; where exited tokens must make up cells for later ones
    (`recompute`) also compute_uncharged, which leaves those out: what most
    papers report.
  """
  prices = model.costs_of_windows(mask_RxT.shape[1])
  spent = flops(model, point, trace, mask_RxT)
  mask = mask_RxT > 0
  num = int(mask.sum())

  row = where_stopped(model, trace.exit_RxT[mask])
  own = float(spent.own_RxT.sum())
  row['compute'] = prices.relative(own / num)
  if spent.made_up_RxT is not None:
    row['compute_uncharged'] = row['compute']
    made_up = float(spent.made_up_RxT.sum())
    row['compute'] = prices.relative((own + made_up) / num)
  return row


def where_stopped(model: Body, exit_N: np.ndarray) -> dict[str, Any]:
  """layer_fraction, mean_readout (1-based) and exit_fraction [K] of exits."""
  grid = model.grid
  count_K = np.bincount(exit_N, minlength=grid.num_readouts)
  fraction_K = count_K / len(exit_N)
  depth = float(fraction_K @ np.asarray(grid.depth_K))
  return {
    'layer_fraction': depth / grid.depth,
    'mean_readout': float(fraction_K @ np.arange(1, len(count_K) + 1)),
    'exit_fraction': fraction_K.tolist(),
  }


class Spent(NamedTuple):
  """FLOPs of each token, [R, T]; 0 for padding.

  Attributes:
    own_RxT: up to its answer, keys and values of skipped cells included.
    made_up_RxT: cells that later tokens look at and it had not run; None where
      the policy makes up none.
  """

  own_RxT: np.ndarray
  made_up_RxT: np.ndarray | None

  @property
  def total_RxT(self) -> np.ndarray:
    """What `compute` charges."""
    if self.made_up_RxT is None:
      return self.own_RxT
    return self.own_RxT + self.made_up_RxT


def flops(
  model: Body,
  point: OperatingPoint | None,
  trace: Trace,
  mask_RxT: np.ndarray,
) -> Spent:
  """What each token of a trace costs; arguments as those of `compute`."""
  grid = model.grid
  prices = model.costs_of_windows(mask_RxT.shape[1])
  mask = mask_RxT > 0

  cost_K = prices.static_K
  if point is not None:
    active_K = thresholds(point, grid.num_readouts) < np.inf
    cost_K = prices.exit_K(point.rule, active_K)
  own_RxT = cost_K[trace.exit_RxT]
  if trace.run_LxRxT is not None:
    spared_KxRxT = spared(model, trace.run_LxRxT)
    own_RxT -= _at(spared_KxRxT, trace.exit_RxT)
  own_RxT = np.where(mask, own_RxT, 0.0)

  if point is None or not point.rule.policy.runs_on:
    return Spent(own_RxT, None)

  exit_RxT = np.where(mask, trace.exit_RxT, 0)
  if model.cfg.attention == CAUSAL:
    deepest_RxT = _deepest_later(exit_RxT)
  else:
    highest_Rx1 = exit_RxT.max(1, keepdims=True)
    deepest_RxT = np.broadcast_to(highest_Rx1, exit_RxT.shape)
  made_up_RxT = prices.deferred_KxK[trace.exit_RxT, deepest_RxT]
  return Spent(own_RxT, np.where(mask, made_up_RxT, 0.0))


def spared(model: Body, run_LxRxT: np.ndarray) -> np.ndarray:
  """FLOPs that routers spare each token up to each readout, [K, R, T]."""
  num_cells, *shape = run_LxRxT.shape
  prices = model.costs_of_windows(shape[1])
  spared_KxN = prices.spared_KxN(run_LxRxT.reshape(num_cells, -1))
  return spared_KxN.reshape(-1, *shape)


def _at(x_KxRxT: np.ndarray, index_RxT: np.ndarray) -> np.ndarray:
  """The entry of each token's index, [R, T]."""
  return np.take_along_axis(x_KxRxT, index_RxT[None], 0)[0]


def _deepest_later(exit_RxT: np.ndarray) -> np.ndarray:
  """Deepest readout among the later tokens of the row, 0 for the last."""
  running = np.maximum.accumulate(exit_RxT[:, ::-1], axis=1)[:, ::-1]
  return np.pad(running[:, 1:], ((0, 0), (0, 1)))


def calibration(dump: Dump, k: int, num_bins: int = 15) -> dict[str, Any]:
  """Reliability of readout k: does max-prob equal accuracy? (1706.04599)

  Returns:
    ece (expected calibration error) and bins of confidence, accuracy, count.
  """
  mask = dump.mask_RxT > 0
  confidence_N = dump.max_prob_KxRxT[k][mask].astype(np.float64)
  correct_N = dump.correct_KxRxT[k][mask]
  bin_N = np.minimum((confidence_N * num_bins).astype(int), num_bins - 1)

  bins = []
  gap = 0.0
  for b in range(num_bins):
    inside = bin_N == b
    if not inside.any():
      continue
    confidence = float(confidence_N[inside].mean())
    accuracy = float(correct_N[inside].mean())
    count = int(inside.sum())
    gap += abs(confidence - accuracy) * count
    bins.append(
      {'confidence': confidence, 'accuracy': accuracy, 'count': count}
    )

  return {'ece': gap / len(confidence_N), 'bins': bins}
