"""How often the layers run in an update: a function of the time trained.

A model that repeats its layers from the start learns slower per FLOP than one
that begins without: the repeats are switched on late (parameter-golf), or grow
in number (the curriculum of retrofitted recurrence, 2511.07384). Evaluation
and decoding run them as often as the model says.
"""

import math
from collections.abc import Callable

CONSTANT = 'constant'


def _constant(segments: int, place: float) -> int:
  del place
  return segments


def _late(segments: int, place: float) -> int:
  """Once, and all from there on."""
  return segments if place >= 1 else 1


def _curriculum(segments: int, place: float) -> int:
  """S (1 - sqrt(1 - place)), rounded up: slowly at first."""
  left = math.sqrt(1 - min(place, 1.0))
  return max(1, math.ceil(segments * (1 - left)))


# (S, steps done as a share of those that the growth takes) -> segments run
SCHEDULES: dict[str, Callable[[int, float], int]] = {
  CONSTANT: _constant,
  'late': _late,
  'curriculum': _curriculum,
}
GROWING = tuple(name for name in SCHEDULES if name != CONSTANT)
