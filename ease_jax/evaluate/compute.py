"""What exits cost, and what readouts know: numbers of a trace or a dump."""

from typing import Any

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
  grid = model.grid
  prices = model.costs_of_windows(mask_RxT.shape[1])
  mask = mask_RxT > 0
  exit_N = trace.exit_RxT[mask]
  num = len(exit_N)
  count_K = np.bincount(exit_N, minlength=grid.num_readouts)

  if point is None:
    cost_K = prices.static_K
  else:
    active_K = thresholds(point, grid.num_readouts) < np.inf
    cost_K = prices.exit_K(point.rule, active_K)
  flops = float(count_K @ cost_K)
  if trace.run_LxRxT is not None:
    flops -= prices.skipped(trace.run_LxRxT[:, mask], exit_N)

  fraction_K = count_K / num
  layer_fraction = float(fraction_K @ np.asarray(grid.depth_K)) / grid.depth
  row = {
    'compute': prices.relative(flops / num),
    'layer_fraction': layer_fraction,
    'mean_readout': float(fraction_K @ np.arange(1, len(count_K) + 1)),
    'exit_fraction': fraction_K.tolist(),
  }
  if point is not None and point.rule.policy.runs_on:
    row['compute_uncharged'] = row['compute']
    exit_RxT = np.where(mask, trace.exit_RxT, 0)
    if model.cfg.attention == CAUSAL:
      deepest_RxT = _deepest_later(exit_RxT)
    else:
      highest_Rx1 = exit_RxT.max(1, keepdims=True)
      deepest_RxT = np.broadcast_to(highest_Rx1, exit_RxT.shape)
    made_up = prices.deferred_KxK[trace.exit_RxT, deepest_RxT][mask].sum()
    row['compute'] = prices.relative((flops + float(made_up)) / num)
  return row


def _deepest_later(exit_RxT: np.ndarray) -> np.ndarray:
  """Deepest readout among the later tokens of the row, 0 for the last."""
  running = np.maximum.accumulate(exit_RxT[:, ::-1], axis=1)[:, ::-1]
  return np.pad(running[:, 1:], ((0, 0), (0, 1)))


def oracle_exit(dump: Dump) -> np.ndarray:
  """First readout whose loss is no worse than the last one's, [R, T]."""
  as_good = dump.nll_KxRxT <= dump.nll_KxRxT[-1]
  return as_good.argmax(0).astype(np.int32)


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
