"""What deeper cells see of a token that has exited, and when tokens exit.

  recompute   the true keys and values, as if the token had not exited; they
              must be computed later, and are charged
  copy_state  each cell's own W_K, W_V applied to the frozen exit state
  drop        deeper cells do not see the token at all
  latest      where blocks run again: the last keys and values that the block
              computed for the token; a block that never ran does as under
              copy_state
  copy_kv     the keys and values of the exit cell as they are. No choice but a
              control: no W_K of another cell made them (2207.07061 lost 40 %
              of its quality by it), so only the evaluation knows it

(CALM, 2207.07061; Depth-Adaptive Transformer, 1910.10073; FREE, 2310.05424.)
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ease_jax.checks import Threshold, check_value, need, one_of
from ease_jax.core.grid import Cell, Grid
from ease_jax.core.signals import SIGNALS, Signal

UNITS = ('token', 'sequence')
LOWEST = float(np.finfo(np.float32).min)  # JSON has no word for -inf
# No score reaches it, but unlike at +inf the readout is asked for one.
UNREACHED = float(np.finfo(np.float32).max)

# (cells, i) -> the earlier cell whose keys and values an exited token shows
# in cell i, as an index, or None where they are made from its frozen state.
Source = Callable[[Sequence[Cell], int], int | None]


def _own(cells: Sequence[Cell], i: int) -> int | None:
  del cells, i
  return None


def _same_block(cells: Sequence[Cell], i: int) -> int | None:
  for earlier in reversed(range(i)):
    if cells[earlier].block == cells[i].block:
      return earlier
  return None


def _cell_before(cells: Sequence[Cell], i: int) -> int | None:
  for earlier in reversed(range(i)):
    if not cells[earlier].aside:
      return earlier
  return None


@dataclasses.dataclass(frozen=True)
class KVPolicy:
  """A K/V policy and all that others need to know of it.

  Attributes:
    name: as configs and results call it.
    runs_on: exited tokens go on through deeper cells for the others.
    hides: deeper cells do not see exited tokens.
    source: whose keys and values an exited token shows in a cell.
    needs_tied: it means something only where a block is called twice.
    decodes: False for a control that only the evaluation knows.
  """

  name: str
  runs_on: bool = False
  hides: bool = False
  source: Source = _own
  needs_tied: bool = False
  decodes: bool = True

  def fills(self, grid: Grid) -> np.ndarray:
    """Cells of which only keys and values are made for an exit, [K] float64.

    Entry k is for a token that was answered at readout k.
    """
    return self.filled(grid).sum(1)

  def filled(self, grid: Grid) -> np.ndarray:
    """Which cells these are, of all but the coda's, [K, L] float64: 0 or 1."""
    num = len(grid.cells)
    if self.runs_on or self.hides:
      return np.zeros((grid.num_readouts, num))

    makes_L = [self.source(grid.cells, i) is None for i in range(num)]
    behind_KxL = np.arange(num) >= np.asarray(grid.reach_K)[:, None]
    return (behind_KxL & np.asarray(makes_L)).astype(np.float64)

  def check(self, grid: Grid) -> None:
    """Raises ConfigError if it means nothing on this grid."""
    cells = grid.cells
    tied = any(_same_block(cells, i) is not None for i in range(len(cells)))
    need(
      tied or not self.needs_tied,
      f'exit.policies names {self.name}, which needs layers that run again: '
      f'model.segments={grid.segments}; raise it or use copy_state',
    )


POLICIES: dict[str, KVPolicy] = {}


def register(policy: KVPolicy) -> KVPolicy:
  """Makes a policy known by its name to configs and results."""
  POLICIES[policy.name] = policy
  return policy


RECOMPUTE = register(KVPolicy('recompute', runs_on=True))
register(KVPolicy('copy_state'))
register(KVPolicy('drop', hides=True))
register(KVPolicy('latest', source=_same_block, needs_tied=True))
register(KVPolicy('copy_kv', source=_cell_before, decodes=False))


def choices() -> tuple[str, ...]:
  """Names of the policies that a config may choose."""
  return tuple(name for name, p in POLICIES.items() if p.decodes)


@dataclasses.dataclass(frozen=True)
class ExitRule:
  """How exits are decided and what they leave behind; static for JAX.

  Attributes:
    signal: what is compared with the thresholds.
    policy: what deeper cells see of an exited token.
    unit: 'token', or 'sequence' where all tokens of a row exit together, at
      the lowest of their scores.
  """

  signal: Signal
  policy: KVPolicy
  unit: str = UNITS[0]


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
  """Where tokens exit. Exits off is `None` in its place, and nothing else.

  Attributes:
    signal: name of a signal.
    policy: name of a K/V policy.
    threshold: one for all readouts, or one for each; +inf never exits there,
      -inf always does. The last readout's is ignored.
    unit: of UNITS.
  """

  signal: str
  policy: str
  threshold: float | tuple[float, ...]
  unit: str = UNITS[0]

  def __post_init__(self):
    need(
      self.signal in SIGNALS,
      f'exit signal {self.signal!r} is unknown; use one of {tuple(SIGNALS)}',
    )
    need(
      self.policy in POLICIES,
      f'K/V policy {self.policy!r} is unknown; use one of {choices()}',
    )
    one_of('unit', self.unit, UNITS)
    several = isinstance(self.threshold, tuple)
    kind = tuple[Threshold, ...] if several else Threshold
    check_value('exit threshold', self.threshold, kind)

  @property
  def rule(self) -> ExitRule:
    """The part of it that programs are compiled for."""
    return ExitRule(SIGNALS[self.signal], POLICIES[self.policy], self.unit)

  def threshold_K(self, num: int) -> np.ndarray:
    """One threshold for each of `num` readouts, [num] float32.

    Raises:
      ConfigError: there are fewer or more.
    """
    need(
      np.shape(self.threshold) in ((), (num,)),
      f'exit thresholds {self.threshold} are {np.size(self.threshold)}; the '
      f'model has {num} readouts; give one for each, or one number',
    )
    value = np.asarray(self.threshold, np.float32)
    return np.broadcast_to(value, (num,))

  def to_json(self) -> dict[str, Any]:
    """Finite numbers and null only: in a list of thresholds null is "never"."""
    if isinstance(self.threshold, tuple):
      *early, _ = self.threshold
      threshold = [*map(_number, early), None]
    else:
      # Null for a single threshold would mean exits off.
      threshold = max(float(self.threshold), LOWEST)
      threshold = min(threshold, -LOWEST)
    row = {
      'signal': self.signal,
      'kv_policy': self.policy,
      'threshold': threshold,
    }
    if self.unit != UNITS[0]:
      row['unit'] = self.unit
    return row

  @classmethod
  def from_json(cls, row: Mapping[str, Any]) -> 'OperatingPoint | None':
    """The point of a row of results; None where exits were off."""
    value = row['threshold']
    if value is None:
      return None

    threshold = (
      tuple(map(_threshold, value))
      if isinstance(value, list)
      else _threshold(value)
    )
    unit = row.get('unit', UNITS[0])
    return cls(row['signal'], row['kv_policy'], threshold, unit)


OFF_JSON = {'signal': None, 'kv_policy': None, 'threshold': None}


def point_json(point: OperatingPoint | None) -> dict[str, Any]:
  """A point, or exits off, as the columns that name it in results."""
  return dict(OFF_JSON) if point is None else point.to_json()


def thresholds(point: OperatingPoint | None, num: int) -> np.ndarray:
  """Thresholds of `num` readouts, [num] float32; all "never" with exits off."""
  if point is None:
    return np.full(num, np.inf, np.float32)
  return point.threshold_K(num)


def _number(threshold: float) -> float | None:
  if threshold == math.inf:
    return None
  return max(float(threshold), LOWEST)


def _threshold(number: float | None) -> float:
  if number is None or number >= -LOWEST:
    return math.inf
  return -math.inf if number <= LOWEST else number
