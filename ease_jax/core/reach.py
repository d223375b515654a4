"""How far back gradients go in an update: a function of its number.

Deep credit assignment is noisy while the layers are still random. HRM-Text
(2605.20613) begins with few updates of its states in the backward pass and
ends with all that the model says; evaluation and decoding have no gradient.
"""

GROWS = 'growing'
REACHES = ('constant', GROWS)


def grown(step: int, first: int, full: int, length: float) -> int:
  """first + floor(min(1, step / length) (full - first)).

  Args:
    step: of the update, from 0.
    first: how far gradients go at first.
    full: how far in the end.
    length: steps until then.
  """
  # Multiplied first, so that no whole number is missed by rounding.
  more = step * (full - first) / length
  return first + int(min(more, full - first))
