"""Quality against compute: do exits beat models of the depth they stop at?

The frontier is what models without exits reach within a budget, straight lines
between them on log axes. A curve is what the exits of a variant reach: at each
budget the setting that is best on the select split, reported on the other one.
"""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from ease_jax.evaluate.results import REPORT, SELECT, Results
from ease_jax.report.comparison import (
  Below,
  Curve,
  CurvePoint,
  Frontier,
  FrontierPoint,
  Stretch,
)

BUDGETS = 24  # points of a curve

Runs = Mapping[int, Results]  # by seed


def frontier(
  names: Sequence[str], runs_of: Mapping[str, Runs]
) -> Frontier | None:
  """Curves of all other variants, and where they lie below the frontier.

  Seed by seed: a curve is below it where it is so in every seed.

  Args:
    names: of the variants without exits.
    runs_of: variant -> seed -> results.

  Returns:
    None where there are no names, or no seed that all of them have.
  """
  seeds = _common_seeds([runs_of.get(name, {}) for name in names])
  if not seeds:
    return None

  line = _Line(names, runs_of, seeds)
  curves = []
  below = []
  for name, runs in runs_of.items():
    own_seeds = [seed for seed in seeds if seed in runs]
    if name in names or not own_seeds:
      continue
    table_SxPx2 = points_of_budgets([runs[seed] for seed in own_seeds])
    curves.append(_curve(name, table_SxPx2.mean(0)))
    below.append(_below(name, table_SxPx2, own_seeds, line))

  return Frontier(line.points(), tuple(curves), tuple(below))


def _common_seeds(runs: Sequence[Runs]) -> list[int]:
  if not runs:
    return []
  return sorted(set.intersection(*(set(r) for r in runs)))


class _Line:
  """The models without exits, from few FLOPs to many.

  Attributes:
    flops_M: FLOPs per token of each model.
    nll_M: seed -> loss of each model.
  """

  def __init__(
    self,
    names: Sequence[str],
    runs_of: Mapping[str, Runs],
    seeds: Sequence[int],
  ):
    def flops(name: str) -> float:
      return runs_of[name][seeds[0]].readouts[-1].flops_static

    def nll(name: str, seed: int) -> float:
      return runs_of[name][seed].readouts[-1].report.nll

    self.names = sorted(names, key=flops)
    self.flops_M = np.asarray([flops(name) for name in self.names])
    self.nll_M = {
      seed: np.asarray([nll(name, seed) for name in self.names])
      for seed in seeds
    }

  def nll(self, seed: int, flops_P: np.ndarray) -> np.ndarray:
    """The lowest loss within each budget, in one seed, [P]."""
    best_M = np.minimum.accumulate(self.nll_M[seed])
    return np.interp(np.log(flops_P), np.log(self.flops_M), best_M)

  def covers(self, flops_P: np.ndarray) -> np.ndarray:
    """Whether each budget lies between two models, [P]."""
    return (flops_P >= self.flops_M[0]) & (flops_P <= self.flops_M[-1])

  def points(self) -> tuple[FrontierPoint, ...]:
    mean_M = np.mean(list(self.nll_M.values()), axis=0)
    return tuple(
      FrontierPoint(name, float(flops), math.exp(nll))
      for name, flops, nll in zip(self.names, self.flops_M, mean_M)
    )


def _curve(name: str, mean_Px2: np.ndarray) -> Curve:
  different = dict.fromkeys(map(tuple, mean_Px2))
  points = [CurvePoint(float(f), math.exp(nll)) for f, nll in different]
  return Curve(name, tuple(points))


def _below(
  name: str, table_SxPx2: np.ndarray, seeds: Sequence[int], line: _Line
) -> Below:
  gains = []
  for seed, table_Px2 in zip(seeds, table_SxPx2):
    flops_P, nll_P = table_Px2.T
    gains.append(line.nll(seed, flops_P) - nll_P)
  gain_SxP = np.stack(gains)

  flops_P = table_SxPx2[..., 0].mean(0)
  inside_P = line.covers(flops_P)
  closest = None
  if inside_P.any():
    closest = float(gain_SxP.mean(0)[inside_P].max())
  return Below(
    name, len(seeds), stretches(flops_P, gain_SxP, inside_P), closest
  )


def stretches(
  flops_P: np.ndarray, gain_SxP: np.ndarray, inside_P: np.ndarray
) -> tuple[Stretch, ...]:
  """Runs of neighbouring budgets where every seed gains.

  Args:
    flops_P: FLOPs per token at each budget, increasing.
    gain_SxP: by how much the loss is below the frontier, in each seed, nats.
    inside_P: whether the frontier says something about the budget.
  """
  mean_P = gain_SxP.mean(0)
  wins_P = inside_P & (gain_SxP > 0).all(0)
  result = []

  for win, group in itertools.groupby(range(len(wins_P)), wins_P.__getitem__):
    index = list(group)
    if win:
      low = float(flops_P[index[0]])
      high = float(flops_P[index[-1]])
      result.append(Stretch(low, high, float(mean_P[index].max())))

  return tuple(result)


def points_of_budgets(runs: Sequence[Results]) -> np.ndarray:
  """FLOPs and loss on the report split, at increasing budgets, [S, P, 2].

  At every budget each run uses the setting that is best on the select split
  within it.

  Args:
    runs: of one variant, one for each seed.
  """
  tables = [_settings(run) for run in runs]
  low = max(table[:, 0].min() for table in tables)
  high = max(table[:, 0].max() for table in tables)
  budgets = np.geomspace(low, high, BUDGETS)

  def best(table: np.ndarray, budget: float) -> np.ndarray:
    allowed = table[table[:, 0] <= budget * (1 + 1e-9)]
    return allowed[allowed[:, 1].argmin(), 2:]

  return np.asarray([[best(table, b) for b in budgets] for table in tables])


def _settings(run: Results) -> np.ndarray:
  """FLOPs and loss on select, then on report, of each setting, [P, 4]."""
  last = run.readouts[-1]
  full_flops = last.flops_static / last.compute_static

  def columns(split: str) -> np.ndarray:
    return np.asarray(
      [
        (row.cost.compute * full_flops, row.quality.nll)
        for row in run.sweep
        if row.split == split
        and (row.point is None or row.point.policy == run.chosen.policy)
      ]
    )

  return np.hstack([columns(SELECT), columns(REPORT)])
