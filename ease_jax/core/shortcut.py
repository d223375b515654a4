"""A shortcut: the way that all runs make, in fewer runs with longer steps.

LoopFormer (2602.11451, section 3) tells each run where on the way from the
input to the answer it starts and how much of it it makes. Beside the long way,
S runs of 1 / S each, an update learns a shortcut of m < S runs, whose steps are
multiples of 1 / S and make the whole way, too:

  J = L_long + a L_short + b mean (sg(x_long) - x_short)^2

x is the last state behind the norm of its head (before a coda), so that its
size does not matter; sg lets no gradient through. A model that learned this can
make the way in fewer runs than it was trained with, each 1 / m of it.
"""

import dataclasses
from typing import Annotated

import numpy as np

from ease_jax.checks import NotNegative, ReadIf, check_fields

_PART = 3  # of the seed, so that numbers of runs are drawn apart from this


@dataclasses.dataclass(frozen=True)
class ShortcutSpec:
  """The fields of section `loss` about shortcuts.

  Attributes:
    shortcut_weight: a, of the shortcut's own loss beside the long way's; 0 =
      there are no shortcuts.
    shortcut_match: b, of the distance of its last state from the long way's.
  """

  shortcut_weight: NotNegative = 0.0
  shortcut_match: Annotated[NotNegative, ReadIf('shortcut_weight')] = 0.1

  def __post_init__(self):
    check_fields('loss', self)

  @property
  def on(self) -> bool:
    """Whether updates learn shortcuts."""
    return self.shortcut_weight > 0


def drawn_way(seed: int, step: int, segments: int) -> np.ndarray:
  """Where the runs of the shortcut of an update start, and the end, [m + 1].

  Shares of the way, from 0 to 1. Every m from 1 to S - 1 is as likely, and so
  is every way of cutting it in m.

  Args:
    seed: of the run.
    step: of the update, from 0.
    segments: S.
  """
  random = np.random.default_rng((seed, step, _PART))
  runs = int(random.integers(1, segments))
  inside = random.choice(np.arange(1, segments), runs - 1, replace=False)
  start_N = np.concatenate([[0], np.sort(inside), [segments]])
  return (start_N / segments).astype(np.float32)
