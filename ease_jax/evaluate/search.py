"""Operating points with a threshold for each readout, near the limit.

The search itself is in `thresholds`: it finds the best thresholds for a price
of compute. Here the price is searched, until the point is as the choice of the
operating point wants it. Every point visited is on the select split only.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ease_jax.core.policies import OperatingPoint
from ease_jax.core.signals import SIGNALS
from ease_jax.evaluate import traces
from ease_jax.evaluate.passes import Dump
from ease_jax.evaluate.results import SweepRow, exits_early
from ease_jax.evaluate.sweep import Evaluator, SweepSpec
from ease_jax.evaluate.thresholds import search_thresholds

# Prices of compute, nats per full pass: the one is too cheap, the other dear.
CHEAP = 0.003
DEAR = 1.0
# Share of the distance to the highest score that thresholds are drawn back to.
DRAWN_BACK = 0.75


class Visited(NamedTuple):
  """A point that the search has measured on the select split."""

  point: OperatingPoint
  row: SweepRow


Measure = Callable[[OperatingPoint], SweepRow]


def searched_points(
  spec: SweepSpec, select: Evaluator, full_ppl: float
) -> Iterator[Visited]:
  """Per-readout thresholds near the limit of the choice, for each signal.

  Bisects the price of compute until the point, under the deployed policy,
  sits at the limit. Readouts come and go as the price changes, so that it may
  jump across: the last point beyond the limit is then drawn back to it.

  Args:
    spec: signals, deployed policy, limits, number of bisections.
    select: the split that chooses.
    full_ppl: its perplexity with exits off.
  """

  def wants_more(row: SweepRow) -> bool:
    return spec.choice.wants_more_exits(row, full_ppl)

  for signal in spec.signals:
    never = OperatingPoint(signal, spec.policy, math.inf, select.task.unit)

    def priced(log_price: float, never: OperatingPoint = never):
      return at_price(select, never, math.exp(log_price))

    visited = list(
      bisect(
        priced,
        math.log(CHEAP),
        math.log(DEAR),
        select.measure,
        wants_more,
        spec.search_points,
      )
    )
    yield from (v for v in visited if exits_early(v.point))

    beyond = [v.point for v in visited if not wants_more(v.row)]
    if not beyond:
      continue

    last = beyond[-1]
    top = highest_score(select.dump, signal)
    if tightened(last, DRAWN_BACK, top) == last:
      continue

    def drawn_back(share: float, last: OperatingPoint = last, top: float = top):
      return tightened(last, share, top)

    yield from bisect(
      drawn_back,
      DRAWN_BACK,
      1.0,
      select.measure,
      wants_more,
      spec.search_points,
    )


def at_price(
  select: Evaluator, point: OperatingPoint, price: float
) -> OperatingPoint:
  """A point with the best thresholds per readout at a price of compute.

  Args:
    select: the split that chooses.
    point: signal, policy and unit.
    price: nats per token that one full pass per token is worth.
  """
  mask = select.dump.mask_RxT > 0
  prices = select.model.costs_of_windows(mask.shape[1])

  def cost_fn(active_K: np.ndarray) -> np.ndarray:
    return prices.exit_K(point.rule, active_K) / prices.full

  threshold_K = search_thresholds(
    traces.unit_scores(point.rule, select.dump)[:, mask],
    select.dump.nll_KxRxT[:, mask],
    cost_fn,
    price,
  )
  return dataclasses.replace(point, threshold=tuple(threshold_K.tolist()))


def bisect(
  point_at: Callable[[float], OperatingPoint],
  low: float,
  high: float,
  measure: Measure,
  wants_more: Callable[[SweepRow], bool],
  num: int,
) -> Iterator[Visited]:
  """Visits `num` points on the way to where nobody wants more exits.

  Args:
    point_at: a point for each place between `low` and `high`.
    low: where there are too few exits.
    high: where there are too many.
    measure: what a point does.
    wants_more: whether that is too few exits.
    num: how many points.
  """
  for _ in range(num):
    middle = (low + high) / 2
    point = point_at(middle)
    row = measure(point)
    yield Visited(point, row)

    if wants_more(row):
      low = middle
    else:
      high = middle


def highest_score(dump: Dump, signal: str) -> float:
  """The highest score that a signal can have, or, without limit, has here.

  The last readout asks nobody, and padding does not count.
  """
  limit = SIGNALS[signal].high
  if math.isfinite(limit):
    return limit
  asked_KxN = dump.score_KxRxT[signal][:-1, dump.mask_RxT > 0]
  return float(asked_KxN[np.isfinite(asked_KxN)].max(initial=-math.inf))


def tightened(
  point: OperatingPoint, share: float, top: float
) -> OperatingPoint:
  """Finite thresholds at `share` of their distance to the highest score.

  Args:
    point: with a threshold for each readout.
    share: of the distance, 1 = as they are.
    top: the highest score.
  """
  assert isinstance(point.threshold, tuple)
  threshold = tuple(
    t if math.isinf(t) else top - share * (top - t) for t in point.threshold
  )
  return dataclasses.replace(point, threshold=threshold)
