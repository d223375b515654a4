"""Per-readout thresholds for a given trade-off of quality against compute.

Minimises mean(nll) + price * mean(compute) over a dump by coordinate descent
from the deepest readout up. Given the other thresholds, the best one for a
readout is found exactly: sort the tokens that reach it by score and take the
prefix whose stopping here gains most.
"""

from collections.abc import Callable

import numpy as np

SWEEPS = 3  # of the coordinate descent; later ones change nothing


def search_thresholds(
  score_KxN: np.ndarray,
  nll_KxN: np.ndarray,
  cost_fn: Callable[[np.ndarray], np.ndarray],
  price: float,
) -> np.ndarray:
  """Thresholds [K] that trade loss for compute at `price`.

  Args:
    score_KxN: the signal at every readout of every token.
    nll_KxN: the loss there, nats.
    cost_fn: active_K -> cost_K, relative to a full pass. A readout whose
      threshold is +inf is not active: its head is never evaluated.
    price: nats per token that one full pass per token is worth.
  """
  num = len(score_KxN)
  threshold_K = np.full(num, np.inf)
  for _ in range(SWEEPS):
    before = threshold_K.copy()
    for k in reversed(range(num - 1)):
      threshold_K[k] = _best(k, threshold_K, score_KxN, nll_KxN, cost_fn, price)
    if np.array_equal(before, threshold_K):
      break
  return threshold_K


def _best(k, threshold_K, score_KxN, nll_KxN, cost_fn, price) -> float:
  """The best threshold of readout k, all others fixed; +inf to prune it."""
  num = len(threshold_K)
  shallower = [j for j in range(k) if threshold_K[j] < np.inf]
  reach_N = np.ones(score_KxN.shape[1], bool)
  for j in shallower:
    reach_N &= score_KxN[j] < threshold_K[j]
  deeper = [j for j in range(k + 1, num) if threshold_K[j] < np.inf]
  next_N = np.full(score_KxN.shape[1], num - 1)
  for j in reversed(deeper):
    next_N[score_KxN[j] >= threshold_K[j]] = j
  active_K = threshold_K < np.inf
  loss_NxK = lambda cost_K: nll_KxN.T + price * cost_K
  active_K[k] = False
  without = np.take_along_axis(loss_NxK(cost_fn(active_K)), next_N[:, None], 1)[
    :, 0
  ][reach_N]
  active_K[k] = True
  stop_NxK = loss_NxK(cost_fn(active_K))
  stay = np.take_along_axis(stop_NxK, next_N[:, None], 1)[:, 0][reach_N]
  stop = stop_NxK[reach_N, k]
  order = np.argsort(-score_KxN[k][reach_N], kind='stable')
  gain = np.cumsum((stay - stop)[order]) - (stay.sum() - without.sum())
  if not len(gain) or gain.max() <= 0:
    return np.inf
  return float(score_KxN[k][reach_N][order[gain.argmax()]])
