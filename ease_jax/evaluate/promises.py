"""What a guarantee comes to on a run: the point it allows, and what it says."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.special

from ease_jax.core.policies import OperatingPoint
from ease_jax.evaluate import guarantee as lib
from ease_jax.evaluate.guarantee import METHODS, RISKS, GuaranteeSpec
from ease_jax.evaluate.passes import Dump
from ease_jax.evaluate.records import Record
from ease_jax.evaluate.settings import Point
from ease_jax.evaluate.traces import Trace
from ease_jax.evaluate.windows import LEVEL, Interval


@dataclasses.dataclass(frozen=True)
class Asked(Record):
  """A threshold that was asked on select, from the safest on.

  Attributes:
    point: the threshold.
    loss: what it loses there, as `epsilon` is told.
    bound: the lowest `epsilon` that it would have been certified for.
    certified: whether it is, as all safer ones are.
  """

  point: Point
  loss: float
  bound: float
  certified: bool


@dataclasses.dataclass(frozen=True)
class Kept(Record):
  """The chosen point on the split that reports.

  Attributes:
    units: scored.
    loss: mean over them, as `epsilon` is told.
    interval: 95 % of this mean, by Student's t over units; None of one unit.
    capped: units whose loss counted as the cap.
    held: whether the loss is at most `epsilon`.
  """

  units: int
  loss: float
  capped: int
  held: bool
  interval: Interval | None = None


@dataclasses.dataclass(frozen=True)
class Promise(Record):
  """A guarantee of a run, and whether it held.

  Attributes:
    risk, epsilon, delta, method, unit, cap: as in section `exit.guarantee`.
    units: of the split that chooses.
    least_units: without any loss, that would be certified; None = over a
      million.
    asked: the thresholds, from the safest on.
    report: on the other split.
  """

  risk: str
  epsilon: float
  delta: float
  method: str
  unit: str
  cap: float
  units: int
  least_units: int | None
  asked: tuple[Asked, ...]
  report: Kept

  def promise(self, split: str) -> str:
    """What is promised, for people.

    Args:
      split: name of the split that chooses.
    """
    risk = RISKS[self.risk]
    words = (
      f'{risk.words} of at most {_percent(self.epsilon)}, in the mean over '
      f'{self.unit}s like those of {split}'
    )
    if risk.capped:
      words += f', where none counts as more than {_percent(self.cap)}'
    if METHODS[self.method].in_expectation:
      return f'{words}, in expectation over such splits ({self.method})'
    sure = _percent(1 - self.delta)
    return f'{words}, with a probability of {sure} ({self.method})'

  def outcome(self, select: str, report: str, exits: bool) -> str:
    """What came of it, for people.

    Args:
      select: name of the split that chooses.
      report: name of the split that reports.
      exits: whether the point that was chosen is not full depth.
    """
    units = _count(self.units, self.unit)
    if exits:
      verdict = 'held' if self.report.held else 'did not hold'
      on = _count(self.report.units, self.unit)
      return f'it {verdict} on {report}: {_percent(self.report.loss)} over {on}'
    if any(row.certified for row in self.asked):
      return (
        'full depth, since no threshold that was certified on '
        f'{units} of {select} costs less'
      )
    if self.least_units is None or self.units < self.least_units:
      needed = f'not even {lib.MOST_UNITS:,}'
      if self.least_units is not None:
        needed = f'{self.least_units:,}'
      return (
        f'full depth, since {select} has too few {self.unit}s ({self.units}): '
        f'without any loss {needed} would do'
      )
    return (
      f'full depth, since no threshold was certified on {units} of {select}'
    )


def _more_nats(dump: Dump, trace: Trace) -> np.ndarray:
  return np.subtract(trace.nll_RxT, dump.nll_KxRxT[-1], dtype=np.float64)


def _differs(dump: Dump, trace: Trace) -> np.ndarray:
  return trace.argmax_RxT != dump.argmax_KxRxT[-1]


# Of each token of a trace, against full depth, [R, T]; one for each risk.
TOKEN_LOSSES = {'perplexity': _more_nats, 'disagreement': _differs}


def unit_losses(spec: GuaranteeSpec, dump: Dump, trace: Trace) -> np.ndarray:
  """Mean loss of each unit, a share of the highest that counts, [N] float64.

  Args:
    spec: which loss and which units.
    dump: of a split; its last readout is full depth.
    trace: of a point on that split.
  """
  loss_RxT = TOKEN_LOSSES[spec.risk](dump, trace)
  mask = dump.mask_RxT > 0
  unit_N = _units(spec.unit, dump)[mask]
  _, unit_N = np.unique(unit_N, return_inverse=True)
  mean_U = np.bincount(unit_N, loss_RxT[mask]) / np.bincount(unit_N)
  return np.minimum(mean_U / spec.highest, 1.0)


def documents_of(unit: str, dump: Dump) -> np.ndarray:
  """Of which document each unit's first token is, [N]."""
  mask = dump.mask_RxT > 0
  _, first_N = np.unique(_units(unit, dump)[mask], return_index=True)
  return _units(lib.DOCUMENT, dump)[mask][first_N]


def _units(unit: str, dump: Dump) -> np.ndarray:
  """Of which unit each token is, [R, T]."""
  if unit == lib.DOCUMENT and dump.document_RxT is not None:
    return dump.document_RxT
  row_Rx1 = np.arange(len(dump.mask_RxT))[:, None]
  return np.broadcast_to(row_Rx1, dump.mask_RxT.shape)


def _percent(value: float) -> str:
  return f'{100 * value:.3g} %'


def _count(number: int, name: str) -> str:
  return f'{number} {name}' if number == 1 else f'{number} {name}s'


def walk(
  spec: GuaranteeSpec, policy: str, points: Sequence[OperatingPoint | None]
) -> tuple[int, ...]:
  """Which points are asked, from the safest on; none if nothing is promised.

  Args:
    spec: whose signal has one threshold for all readouts.
    policy: name of the K/V policy that is deployed.
    points: of the sweep.
  """
  thresholds = {
    i: point.threshold
    for i, point in enumerate(points)
    if point is not None
    and (point.signal, point.policy) == (spec.signal, policy)
    and not isinstance(point.threshold, tuple)
  }
  if not spec.on:
    return ()
  return tuple(sorted(thresholds, key=lambda i: thresholds[i], reverse=True))


def ask(
  spec: GuaranteeSpec,
  points: Sequence[OperatingPoint | None],
  loss_JxN: np.ndarray,
) -> tuple[Asked, ...]:
  """Which thresholds the select split certifies.

  Args:
    spec: the guarantee.
    points: that are asked, from the safest on.
    loss_JxN: of each unit at each of them.
  """
  # Neighbours are alike, and bets go through the units one by one.
  order_N = np.random.default_rng(0).permutation(loss_JxN.shape[1])
  loss_JxN = loss_JxN[:, order_N]
  method = METHODS[spec.method]
  num = lib.certified(loss_JxN, spec.limit, spec.delta, method)
  tested_JxN = lib.tested(loss_JxN, method)

  rows = []
  for j, point in enumerate(points):
    bound = lib.upper_bound(tested_JxN[j], spec.delta, method)
    rows.append(
      Asked(
        point=point,
        loss=spec.amount(float(loss_JxN[j].mean())),
        bound=spec.amount(bound),
        certified=j < num,
      )
    )
  return tuple(rows)


def promised(
  spec: GuaranteeSpec,
  asked: tuple[Asked, ...],
  units: int,
  loss_N: np.ndarray,
) -> Promise:
  """What a run promises, and whether it held.

  Args:
    spec: the guarantee.
    asked: the thresholds.
    units: of the split that chooses.
    loss_N: of the chosen point, on each unit of the split that reports.
  """
  mean = float(loss_N.mean())
  report = Kept(
    units=len(loss_N),
    loss=spec.amount(mean),
    capped=int((loss_N >= 1).sum()) if RISKS[spec.risk].capped else 0,
    held=mean <= spec.limit,
    interval=_interval(spec, loss_N),
  )
  return Promise(
    risk=spec.risk,
    epsilon=spec.epsilon,
    delta=spec.delta,
    method=spec.method,
    unit=spec.unit,
    cap=spec.cap,
    units=units,
    least_units=lib.least_units(spec.limit, spec.delta, METHODS[spec.method]),
    asked=asked,
    report=report,
  )


def _interval(spec: GuaranteeSpec, loss_N: np.ndarray) -> Interval | None:
  num = len(loss_N)
  if num < 2:
    return None
  error = float(loss_N.std(ddof=1)) / math.sqrt(num)
  half = float(scipy.special.stdtrit(num - 1, (1 + LEVEL) / 2)) * error
  mean = float(loss_N.mean())
  return Interval(spec.amount(mean - half), spec.amount(mean + half))
