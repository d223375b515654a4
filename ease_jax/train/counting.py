"""Training FLOPs, counted by the cost model: of a stage, a step, a run."""

import collections
import dataclasses
import functools
from collections.abc import Hashable

import numpy as np

from ease_jax.core.costs import CostModel
from ease_jax.core.objective import LossSpec
from ease_jax.model import Body, Params
from ease_jax.train import optimizer
from ease_jax.train.freezing import learned_of
from ease_jax.train.optimizer import OptimizerSpec
from ease_jax.train.paths import leaves
from ease_jax.train.spec import TrainSpec
from ease_jax.train.stages import Plan, Stage, plan, planned, tells, way
from ease_jax.train.update import abstract_state


@dataclasses.dataclass(frozen=True)
class Counting:
  """FLOPs of training on one token.

  Training multiplies all keys of a window and masks those of later tokens, so
  that attention is counted at the whole window. What is done once comes on
  top.

  Attributes:
    train: the schedules.
    model: a body.
    loss: of it.
    optimizer: its rule.
    seq_len: T.
    seed: of the run.
    beside: FLOPs that each token takes besides, such as those of a teacher.
  """

  train: TrainSpec
  model: Body
  loss: LossSpec
  optimizer: OptimizerSpec
  seq_len: int
  seed: int
  beside: float = 0.0

  @functools.cached_property
  def _shapes(self) -> Params:
    return abstract_state(self.model, self.optimizer).params

  @functools.cached_property
  def _of_each(self) -> float:
    """In each step: a share of the optimizer's products, and `beside`."""
    flops = optimizer.update_flops(self.optimizer, self._shapes)
    flops *= self.optimizer.updates_per_step
    return flops / (self.train.batch_size * self.seq_len) + self.beside

  @functools.cached_property
  def _priced(self) -> dict[Plan, float]:
    """Plans that were asked for already."""
    return {}

  def plan(self, step: int) -> Plan:
    """The plan of a step, counted from 0."""
    return plan(self.train, self.model, step, self.seed)

  def program(self, step: int) -> Hashable:
    """Equal for steps whose updates are compiled once for all of them."""
    now = planned(self.model, self.loss, self.plan(step))
    way_N = way(self.loss, step, self.seed)
    runs = None if way_N is None else len(way_N)
    return now.model, now.loss, tells(self.train, now), runs

  @property
  def mean(self) -> float:
    """The mean over all steps, the optimizer's share included."""
    steps = range(self.train.steps)
    total = 0.0
    for now, updates in collections.Counter(map(self.plan, steps)).items():
      total += updates * self._of_plan(now)
    shortcuts = sum(map(self._of_shortcut, steps))
    return (total + shortcuts) / len(steps) + self._of_each

  def at(self, step: int) -> float:
    """Of one step, counted from 0, the optimizer's share included."""
    planned_flops = self._of_plan(self.plan(step))
    return planned_flops + self._of_shortcut(step) + self._of_each

  def _of_plan(self, now: Plan) -> float:
    if now not in self._priced:
      self._priced[now] = self.of(planned(self.model, self.loss, now))
    return self._priced[now]

  def of(self, now: Stage) -> float:
    """Forward and backward in an update of a stage."""
    any_run = tells(self.train, now)
    prices = now.model.costs(self.seq_len, any_run)
    learned = learned_of(self.loss.freeze, leaves(self._shapes))
    again = 0  # segments that make the first streams anew
    if now.loss.one_by_one and not any_run:
      again = now.loss.segments - 1
    taught = prices.train_per_token(
      now.loss.trained_K,
      now.loss.asked_K,
      looks=now.loss.looks,
      ahead=now.loss.gating.ahead,
      cell_passes=learned.cell_passes,
      head_passes=learned.head_passes,
      early_passes=learned.early_passes,
      again=again,
      rehearsed=now.loss.teaching.own and now.loss.segments > 1,
    )
    if self.train.cached_batches:  # made once: `once.flops`
      taught -= prices.prelude + prices.segment
    return taught + now.before * prices.segment

  def _of_shortcut(self, step: int) -> float:
    """What the shortcut of a step takes behind the prelude."""
    way_N: np.ndarray | None = way(self.loss, step, self.seed)
    if way_N is None:
      return 0.0
    prices = self._prices
    runs = len(way_N) - 1
    return 3 * (runs * prices.segment + prices.coda + prices.head)

  @functools.cached_property
  def _prices(self) -> CostModel:
    return self.model.costs(self.seq_len)
