"""How often the layers run in an update: a function of (seed, step).

A model that repeats its layers from the start learns slower per FLOP than one
that begins without: the repeats are switched on late (parameter-golf), or grow
in number (the curriculum of retrofitted recurrence, 2511.07384). Where their
number is drawn (Huginn, 2502.05171), the model learns to answer after any.
Evaluation and decoding run them as often as the model says.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

CONSTANT = 'constant'
DRAWN = 'drawn'
SPREAD = 0.5  # of the logarithm of the rate that numbers are drawn with


@dataclasses.dataclass(frozen=True)
class When:
  """What a schedule may look at.

  Attributes:
    segments: S, of the model.
    place: updates done, as a share of those that growth takes; above 1 after.
    most: of what is drawn.
    random: makes the random numbers of this update.
  """

  segments: int
  place: float
  most: int
  random: Callable[[], np.random.Generator]


def _constant(when: When) -> int:
  return when.segments


def _late(when: When) -> int:
  """Once, and all from there on."""
  return when.segments if when.place >= 1 else 1


def _curriculum(when: When) -> int:
  """S (1 - sqrt(1 - place)), rounded up: slowly at first."""
  left = math.sqrt(1 - min(when.place, 1.0))
  return max(1, math.ceil(when.segments * (1 - left)))


def _drawn(when: When) -> int:
  """Poisson and one, whose rate is log-normal with mean S."""
  centre = math.log(when.segments) - SPREAD**2 / 2
  random = when.random()
  rate = random.lognormal(centre, SPREAD)
  return min(1 + int(random.poisson(rate)), when.most)


SCHEDULES: dict[str, Callable[[When], int]] = {
  CONSTANT: _constant,
  'late': _late,
  'curriculum': _curriculum,
  DRAWN: _drawn,
}
GROWING = ('late', 'curriculum')
