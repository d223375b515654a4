"""Choosing: from a sweep of the select split to the operating point."""

from typing import NamedTuple

import numpy as np

from ease_jax.core.policies import OperatingPoint
from ease_jax.evaluate import promises
from ease_jax.evaluate.promises import Asked, Promise
from ease_jax.evaluate.results import SweepRow
from ease_jax.evaluate.search import searched_points
from ease_jax.evaluate.sweep import Evaluator, SweepSpec, scalar_points


class Selection(NamedTuple):
  """The sweep of the select split, and which of its points is chosen.

  Attributes:
    points: settings, in the order of the sweep.
    rows: what they do.
    best: index of the chosen one.
    asked: what a guarantee certified; empty where nothing is promised.
    units: on which it did.
  """

  points: list[OperatingPoint | None]
  rows: list[SweepRow]
  best: int
  asked: tuple[Asked, ...] = ()
  units: int = 0

  @property
  def point(self) -> OperatingPoint | None:
    return self.points[self.best]


def choose(spec: SweepSpec, select: Evaluator) -> Selection:
  """Sweeps the select split, and picks the point that the config asks for.

  Args:
    spec: what is swept, and what is asked for.
    select: the split that chooses.
  """
  points = list(scalar_points(spec, select.task.unit))
  walk = promises.walk(spec.guarantee, spec.policy, points)
  rows = []
  lost = {}
  for i, point in enumerate(points):
    trace = select.trace(point)
    rows.append(select.row(point, trace))
    if i in walk:
      lost[i] = promises.unit_losses(spec.guarantee, select.dump, trace)

  off = points.index(None)
  for visited in searched_points(spec, select, rows[off].quality.ppl):
    if visited.point not in points:
      points.append(visited.point)
      rows.append(visited.row)
  if not spec.guarantee.on:
    return Selection(points, rows, spec.choice.best(rows, spec.policy))

  loss_JxN = np.stack([lost[i] for i in walk])
  asked = promises.ask(spec.guarantee, [points[i] for i in walk], loss_JxN)
  allowed = [i for i, row in zip(walk, asked, strict=True) if row.certified]
  best = min([off, *allowed], key=lambda i: rows[i].cost.compute)
  return Selection(points, rows, best, asked, loss_JxN.shape[1])


def promise(
  spec: SweepSpec, report: Evaluator, chosen: Selection
) -> Promise | None:
  """What the chosen point promises, and whether it held; None = nothing.

  Args:
    spec: what is promised.
    report: the split that says whether it held.
    chosen: what select certified.
  """
  if not spec.guarantee.on:
    return None
  trace = report.trace(chosen.point)
  loss_N = promises.unit_losses(spec.guarantee, report.dump, trace)
  return promises.promised(spec.guarantee, chosen.asked, chosen.units, loss_N)
