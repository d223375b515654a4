"""Quality against compute: do exits beat models of the depth they stop at?

The frontier is what models without exits reach within a budget, straight lines
between them on log axes. A curve is what the exits of a variant reach: at each
budget the setting that is best on the select split, reported on the other one.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ease_jax.evaluate.results import REPORT, SELECT, Results, SweepRow
from ease_jax.evaluate.windows import Interval, draws
from ease_jax.report.comparison import (
  Curve,
  CurvePoint,
  Frontier,
  FrontierPoint,
  Judged,
  Stretch,
)
from ease_jax.study import uncertainty
from ease_jax.study.study import Evaluated, Runs

BUDGETS = 24  # points of a curve


def frontier(
  names: Sequence[str], runs_of: Mapping[str, Runs]
) -> Frontier | None:
  """Curves of all other variants, and where they lie beside the frontier.

  Args:
    names: of the variants without exits.
    runs_of: variant -> seed -> what its run has left.

  Returns:
    None where there are no names, or no seed that all of them have.
  """
  seeds = _common_seeds([runs_of.get(name, {}) for name in names])
  if not seeds:
    return None

  def flops(name: str) -> float:
    return _full_flops(runs_of[name][seeds[0]])

  names = sorted(names, key=flops)
  flops_M = np.asarray([flops(name) for name in names])
  curves = []
  judged = []
  for name, runs in runs_of.items():
    own_seeds = [seed for seed in seeds if seed in runs]
    if name in names or not own_seeds:
      continue
    own_runs = [runs[seed] for seed in own_seeds]
    curve = sums_of_budgets(own_runs)
    models = _full_depth(
      [[runs_of[model][seed] for model in names] for seed in own_seeds]
    )
    curves.append(_curve(name, curve))
    chosen = _stretches(sums_of_chosen(own_runs), models)
    judged.append(
      Judged(
        variant=name,
        seeds=len(own_seeds),
        chosen=chosen[0] if chosen else None,
        stretches=_stretches(curve, models),
      )
    )

  line = _full_depth(
    [[runs_of[name][seed] for name in names] for seed in seeds]
  )
  _, nll_SxM = line.totals
  points = tuple(
    FrontierPoint(name, float(flops), math.exp(nll))
    for name, flops, nll in zip(names, flops_M, nll_SxM.mean(0), strict=True)
  )
  return Frontier(points, tuple(curves), tuple(judged))


def _common_seeds(runs: Sequence[Runs]) -> list[int]:
  if not runs:
    return []
  return sorted(set.intersection(*(set(r) for r in runs)))


class Sums(NamedTuple):
  """P settings of the runs of S seeds, summed over stretches of windows.

  Attributes:
    flops_SxPxW: FLOPs.
    nll_SxPxW: losses, nats.
    tokens_W: tokens.
  """

  flops_SxPxW: np.ndarray
  nll_SxPxW: np.ndarray
  tokens_W: np.ndarray

  def means(self, drawn_BxW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """FLOPs and loss of a token on what was drawn, [B, S, P] each."""
    tokens_Bx1x1 = (drawn_BxW @ self.tokens_W)[:, None, None]

    def mean(x_SxPxW: np.ndarray) -> np.ndarray:
      return np.einsum('bw,spw->bsp', drawn_BxW, x_SxPxW) / tokens_Bx1x1

    return mean(self.flops_SxPxW), mean(self.nll_SxPxW)

  @property
  def totals(self) -> tuple[np.ndarray, np.ndarray]:
    """FLOPs and loss of a token on all windows, [S, P] each."""
    flops_1xSxP, nll_1xSxP = self.means(np.ones((1, len(self.tokens_W))))
    return flops_1xSxP[0], nll_1xSxP[0]


def _full_depth(runs_SxM: Sequence[Sequence[Evaluated]]) -> Sums:
  """The last readouts of models without exits."""

  def last(field: str) -> np.ndarray:
    return np.asarray(
      [
        [getattr(run.windows.readouts[-1], field) for run in runs_M]
        for runs_M in runs_SxM
      ]
    )

  tokens_W = np.asarray(runs_SxM[0][0].windows.tokens)
  return Sums(last('flops'), last('nll'), tokens_W)


def sums_of_budgets(runs: Sequence[Evaluated]) -> Sums:
  """The settings of a variant at increasing budgets.

  At every budget each run uses the setting that is best on the select split
  within it.

  Args:
    runs: of one variant, one for each seed.
  """
  tables = [_selected(run) for run in runs]
  low = max(table.flops_P.min() for table in tables)
  high = max(table.flops_P.max() for table in tables)
  budgets = np.geomspace(low, high, BUDGETS)

  number_SxP = [[table.best(b) for b in budgets] for table in tables]
  return _sums(runs, number_SxP)


def sums_of_chosen(runs: Sequence[Evaluated]) -> Sums:
  """The operating points of the runs of a variant."""
  number_Sx1 = []
  for run in runs:
    points = [row.point for row in _rows(run.results, REPORT)]
    number_Sx1.append([points.index(run.results.chosen.point)])
  return _sums(runs, number_Sx1)


def _sums(
  runs: Sequence[Evaluated], number_SxP: Sequence[Sequence[int]]
) -> Sums:
  """Settings of each run, by their numbers among its rows of the sweep."""

  def of(field: str) -> np.ndarray:
    return np.asarray(
      [
        [getattr(run.windows.points[number], field) for number in numbers]
        for run, numbers in zip(runs, number_SxP, strict=True)
      ]
    )

  return Sums(of('flops'), of('nll'), np.asarray(runs[0].windows.tokens))


class _Selected(NamedTuple):
  """Settings of a run on the select split, and which of all they are."""

  flops_P: np.ndarray
  nll_P: np.ndarray
  number_P: np.ndarray

  def best(self, budget: float) -> int:
    """Number of the setting of the lowest loss within a budget."""
    allowed_P = self.flops_P <= budget * (1 + 1e-9)
    return int(self.number_P[np.where(allowed_P, self.nll_P, np.inf).argmin()])


def _selected(evaluated: Evaluated) -> _Selected:
  """Those under the deployed policy; numbers are those of the sweep's rows."""
  run = evaluated.results
  full_flops = evaluated.windows.full_flops  # routers spared nothing in it
  rows = [
    (number, row)
    for number, row in enumerate(_rows(run, SELECT))
    if row.point is None or row.point.policy == run.chosen.policy
  ]
  return _Selected(
    flops_P=np.asarray([row.cost.compute * full_flops for _, row in rows]),
    nll_P=np.asarray([row.quality.nll for _, row in rows]),
    number_P=np.asarray([number for number, _ in rows]),
  )


def _rows(run: Results, split: str) -> list[SweepRow]:
  """Of one split; both splits have the same points in the same order."""
  rows = [row for row in run.sweep if row.split == split]
  points = [row.point for row in run.sweep if row.split == REPORT]
  assert [row.point for row in rows] == points
  return rows


def _full_flops(evaluated: Evaluated) -> float:
  return evaluated.results.readouts[-1].flops_static


def _curve(name: str, sums: Sums) -> Curve:
  flops_SxP, nll_SxP = sums.totals
  pairs = zip(flops_SxP.mean(0), nll_SxP.mean(0), strict=True)
  points = [CurvePoint(float(f), math.exp(n)) for f, n in dict.fromkeys(pairs)]
  return Curve(name, tuple(points))


def _stretches(curve: Sums, models: Sums) -> tuple[Stretch, ...]:
  """Neighbouring budgets of a curve of which the same can be said.

  Empty where the curve has no budget between two models, or was measured on
  other windows than they.
  """
  if not np.array_equal(curve.tokens_W, models.tokens_W):
    return ()

  num_windows = len(curve.tokens_W)
  flops_SxP, _ = curve.totals
  flops_P = flops_SxP.mean(0)
  flops_M = models.totals[0][0]
  inside_P = (flops_P >= flops_M[0]) & (flops_P <= flops_M[-1])

  (excess_SxP,) = excess(curve, models, np.ones((1, num_windows)))
  drawn_BxP = excess(curve, models, draws(num_windows)).mean(1)
  mean_P = excess_SxP.mean(0)
  intervals = [
    uncertainty.combined(excess_SxP[:, p], drawn_BxP[:, p], num_windows)
    for p in range(len(flops_P))
  ]

  result = []
  places = np.flatnonzero(inside_P).tolist()
  for _, group in itertools.groupby(places, lambda p: _side(intervals[p])):
    index = list(group)
    most = max(index, key=lambda p: abs(mean_P[p]))
    result.append(
      Stretch(
        low=float(flops_P[index[0]]),
        high=float(flops_P[index[-1]]),
        ratio=math.exp(mean_P[most]),
        interval=uncertainty.of_ratio(intervals[most]),
      )
    )
  return tuple(result)


def _side(interval: Interval) -> int:
  """-1 below, 1 above, 0 where that cannot be told."""
  if not interval.excludes(0):
    return 0
  return 1 if interval.low > 0 else -1


def excess(curve: Sums, models: Sums, drawn_BxW: np.ndarray) -> np.ndarray:
  """Loss of a curve over that of the frontier at its budgets, [B, S, P].

  Args:
    curve: settings of a variant.
    models: without exits, from few FLOPs to many.
    drawn_BxW: how often each stretch of windows was drawn.
  """
  flops_BxSxP, nll_BxSxP = curve.means(drawn_BxW)
  flops_BxSxM, nll_BxSxM = models.means(drawn_BxW)
  # A model may be worse than a smaller one, which then fits the budget too.
  best_BxSxM = np.minimum.accumulate(nll_BxSxM, axis=2)

  line_BxSxP = np.empty_like(nll_BxSxP)
  for b, s in np.ndindex(line_BxSxP.shape[:2]):
    line_BxSxP[b, s] = np.interp(
      np.log(flops_BxSxP[b, s]), np.log(flops_BxSxM[b, s]), best_BxSxM[b, s]
    )
  return nll_BxSxP - line_BxSxP
