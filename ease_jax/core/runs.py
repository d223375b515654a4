"""How often the layers run in an update: a function of (seed, step).

A model that repeats its layers from the start learns slower per FLOP than one
that begins without: the repeats are switched on late (parameter-golf), or grow
in number (the curriculum of retrofitted recurrence, 2511.07384). Where their
number is drawn (Huginn, 2502.05171), the model learns to answer after any;
each row of a batch may have drawn its own (Parcae, 2604.12946). Evaluation and
decoding run them as often as the model says.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

CONSTANT = 'constant'
DRAWN = 'drawn'
DRAWN_ROWS = 'drawn_rows'
DRAWING = (DRAWN, DRAWN_ROWS)
SPREAD = 0.5  # of the logarithm of the rate that numbers are drawn with


@dataclasses.dataclass(frozen=True)
class When:
  """What a schedule may look at.

  Attributes:
    segments: S, of the model.
    place: updates done, as a share of those that growth takes; above 1 after.
    most: of what is drawn.
    random: makes the random numbers of this update.
    rows: B, of the batch.
  """

  segments: int
  place: float
  most: int
  random: Callable[[], np.random.Generator]
  rows: int = 1


def _constant(when: When) -> int:
  return when.segments


def _late(when: When) -> int:
  """Once, and all from there on."""
  return when.segments if when.place >= 1 else 1


def _curriculum(when: When) -> int:
  """S (1 - sqrt(1 - place)), rounded up: slowly at first."""
  left = math.sqrt(1 - min(when.place, 1.0))
  return max(1, math.ceil(when.segments * (1 - left)))


def _numbers(when: When, num: int) -> np.ndarray:
  """Poisson and one, whose rate is log-normal with mean S, so many times."""
  centre = math.log(when.segments) - SPREAD**2 / 2
  random = when.random()
  rate_N = random.lognormal(centre, SPREAD, num)
  return np.minimum(1 + random.poisson(rate_N), when.most)


def _drawn(when: When) -> int:
  """One number for all rows."""
  return int(_numbers(when, 1)[0])


def rows_drawn(when: When) -> np.ndarray:
  """A number for each row, [B] int32."""
  return _numbers(when, when.rows).astype(np.int32)


def _drawn_rows(when: When) -> int:
  """The greatest number of a row."""
  return int(rows_drawn(when).max())


SCHEDULES: dict[str, Callable[[When], int]] = {
  CONSTANT: _constant,
  'late': _late,
  'curriculum': _curriculum,
  DRAWN: _drawn,
  DRAWN_ROWS: _drawn_rows,
}
GROWING = ('late', 'curriculum')
