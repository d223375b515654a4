"""Per-readout thresholds for a given trade-off of quality against compute.

Minimises mean(nll) + price * mean(compute) over a dump by coordinate descent
from the deepest readout up. Given the other thresholds, the best one for a
readout is found exactly: sort the tokens that reach it by score and take the
prefix whose stopping here gains most.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

SWEEPS = 3  # of the coordinate descent; later ones change nothing

# active_K -> cost_K: whether each readout may answer -> what answering at each
# one costs, divided by the cost of a full pass.
CostFn = Callable[[np.ndarray], np.ndarray]


def search_thresholds(
  score_KxN: np.ndarray,
  nll_KxN: np.ndarray,
  cost_fn: CostFn,
  price: float,
) -> np.ndarray:
  """Thresholds [K] that trade loss for compute at `price`.

  Args:
    score_KxN: the signal at every readout of every token.
    nll_KxN: the loss there, nats.
    cost_fn: what answering costs. A readout whose threshold is +inf is not
      active: its head is never evaluated.
    price: nats per token that one full pass per token is worth.

  Returns:
    float64; +inf = never, as the last one is.
  """
  problem = _Problem(score_KxN, nll_KxN, cost_fn, price)
  threshold_K = np.full(len(score_KxN), np.inf)

  for _ in range(SWEEPS):
    before_K = threshold_K.copy()
    for k in reversed(range(len(score_KxN) - 1)):
      threshold_K[k] = problem.best(k, threshold_K)
    if np.array_equal(before_K, threshold_K):
      break

  return threshold_K


@dataclasses.dataclass(frozen=True)
class _Problem:
  """What the thresholds are to minimise; see `search_thresholds`."""

  score_KxN: np.ndarray
  nll_KxN: np.ndarray
  cost_fn: CostFn
  price: float

  def best(self, k: int, threshold_K: np.ndarray) -> float:
    """The best threshold of readout k, all others fixed; +inf to prune it."""
    reach_N = self._reach(k, threshold_K)
    next_N = self._next(k, threshold_K)[reach_N]
    score_N = self.score_KxN[k, reach_N]

    active_K = threshold_K < np.inf
    active_K[k] = False
    pruned_N = _pick(self._loss(active_K)[:, reach_N], next_N)

    active_K[k] = True
    loss_KxN = self._loss(active_K)[:, reach_N]
    stay_N = _pick(loss_KxN, next_N)
    stop_N = loss_KxN[k]

    # What is gained if the n tokens of the highest scores stop here.
    order_N = np.argsort(-score_N, kind='stable')
    head = stay_N.sum() - pruned_N.sum()
    gain_N = np.cumsum((stay_N - stop_N)[order_N]) - head
    if not len(gain_N) or gain_N.max() <= 0:
      return np.inf
    return float(score_N[order_N[gain_N.argmax()]])

  def _loss(self, active_K: np.ndarray) -> np.ndarray:
    """The objective of each token if it stops at each readout, [K, N]."""
    return self.nll_KxN + self.price * self.cost_fn(active_K)[:, None]

  def _reach(self, k: int, threshold_K: np.ndarray) -> np.ndarray:
    """Whether each token passes all readouts before k, [N]."""
    return np.logical_not(self._stops(threshold_K)[:k].any(0))

  def _next(self, k: int, threshold_K: np.ndarray) -> np.ndarray:
    """Where each token stops if it passes k, [N]."""
    stops_KxN = self._stops(threshold_K)
    stops_KxN[: k + 1] = False
    stops_KxN[-1] = True
    return stops_KxN.argmax(0)

  def _stops(self, threshold_K: np.ndarray) -> np.ndarray:
    """Whether each token would stop at each readout, [K, N]."""
    never_Kx1 = threshold_K[:, None] == np.inf
    return (self.score_KxN >= threshold_K[:, None]) & ~never_Kx1


def _pick(value_KxN: np.ndarray, index_N: np.ndarray) -> np.ndarray:
  """The value of each token at its index, [N]."""
  return np.take_along_axis(value_KxN, index_N[None], 0)[0]
