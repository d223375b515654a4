"""What this package's decoder did, in FLOPs."""

from typing import NamedTuple

import numpy as np

from ease_jax.core.context import seen
from ease_jax.core.policies import OperatingPoint, thresholds
from ease_jax.decode.deferred import WINDOW
from ease_jax.model import Body


class Bill(NamedTuple):
  """What some tokens cost, beside what a full pass of them would.

  Attributes:
    tokens: how many.
    flops: FLOPs of all of them.
    full: FLOPs of as many full passes, at the same context.
  """

  tokens: int = 0
  flops: float = 0.0
  full: float = 0.0

  @property
  def share(self) -> float:
    """FLOPs relative to the full pass; there must be a token."""
    return self.flops / self.full

  def plus(self, other: 'Bill') -> 'Bill':
    """Both together."""
    return Bill(
      self.tokens + other.tokens,
      self.flops + other.flops,
      self.full + other.full,
    )


def written(
  model: Body,
  point: OperatingPoint | None,
  exit_T: np.ndarray,
  passed_TxL: np.ndarray | None,
  before: int,
) -> Bill:
  """What this decoder did for the tokens of one row: `compute_decoder`."""
  num = len(exit_T)
  passed = None if passed_TxL is None else passed_TxL[None]
  share = compute_decoder(model, point, exit_T[None], passed, before)
  prices = model.costs(seen(model.cfg, num, before))
  full = num * prices.full
  return Bill(num, share * full, full)


def compute_decoder(
  model: Body,
  point: OperatingPoint | None,
  exit_RxT: np.ndarray,
  passed_RxTxL: np.ndarray | None = None,
  before: int = 0,
) -> float:
  """What this decoder does for the tokens of some rows.

  FLOPs per token, relative to a full pass. Under a policy where exited tokens
  run on (`recompute`) they wait in a window: in the end nearly everything is
  made up, many tokens at a time. Under the others it equals `compute`, the
  least that any decoder must do.

  Args:
    model: a body.
    point: where tokens exit; None = nowhere.
    exit_RxT: the readout that answered each token.
    passed_RxTxL: tokens that routers kept out of each cell in each step; None
      where there are no routers.
    before: tokens of the rows that came earlier, such as a prompt: they are
      looked back at, by the full pass as well, and not charged themselves.
  """
  prices = model.costs(seen(model.cfg, exit_RxT.shape[1], before))
  cost_K = prices.static_K
  if point is not None:
    active_K = thresholds(point, model.grid.num_readouts) < np.inf
    cost_K = prices.exit_K(point.rule, active_K)
  flops = float(cost_K[exit_RxT].mean())
  if passed_RxTxL is not None:
    flops -= float((passed_RxTxL @ prices.block_L).mean())

  if point is not None and point.rule.policy.runs_on:
    taken_RxT = reached(model.grid.num_readouts - 1, exit_RxT)
    more_RxT = prices.static_K[taken_RxT] - prices.static_K[exit_RxT]
    flops += float(more_RxT.mean())
  return prices.relative(flops)


def reached(last: int, exit_RxT: np.ndarray) -> np.ndarray:
  """The readout that `deferred.answer` takes each token to, [R, T].

  A token takes those that wait along; one that has waited for a whole window
  takes them all through.

  Args:
    last: number of the last readout.
    exit_RxT: the readout that answered each token.
  """
  reached_RxT = exit_RxT.copy()

  for t in range(exit_RxT.shape[1]):
    depth_R = exit_RxT[:, t]
    if t >= WINDOW:
      waited_R = reached_RxT[:, t - WINDOW] < last
      depth_R = np.where(waited_R, last, depth_R)
    first = max(0, t - WINDOW)
    window_RxN = reached_RxT[:, first : t + 1]
    np.maximum(window_RxN, depth_R[:, None], out=window_RxN)

  return reached_RxT
