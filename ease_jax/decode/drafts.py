"""How drafts of self-speculative decoding are made, and what came of them."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from ease_jax.checks import Count, Size, Threshold, check_fields, need
from ease_jax.core.signals import MAX_PROB, SIGNALS
from ease_jax.model import Body

Number = int | jax.Array


@dataclasses.dataclass(frozen=True)
class Draft:
  """How drafts are made (static).

  Attributes:
    readout: the one that drafts, an index below K - 1.
    length: most drafts before a check.
    threshold: drafting ends early below this score; -inf = never.
    signal: the score, one that looks at the drafting readout's logits alone.
  """

  readout: Size = 0
  length: Count = 4
  threshold: Threshold = -np.inf
  signal: str = MAX_PROB.name

  def __post_init__(self):
    check_fields('generate.draft', self)
    able = tuple(name for name, signal in SIGNALS.items() if signal.can_draft)
    need(
      self.signal in able,
      f'signal={self.signal!r} cannot draft: it compares readouts or needs a '
      f'learned head; use one of {able}',
    )

  def check(self, model: Body) -> None:
    """Raises ConfigError if a model cannot draft like this."""
    check_model(model)
    num = model.grid.num_readouts
    need(
      0 <= self.readout < num - 1,
      f'generate.draft: readout={self.readout} of a model with {num} readouts; '
      f'only 0 to {num - 2} are before the last',
    )


def check_model(model: Body) -> None:
  """Raises ConfigError if a model cannot draft at all."""
  need(
    model.grid.num_readouts > 1,
    'speculation drafts with a readout before the last; model.readouts='
    f'{model.cfg.readouts} is one; train with more readouts',
  )
  need(
    not model.grid.coda,
    'speculation drafts from the state of an early readout; this model reads '
    "it through a coda; use generate.method='exits' or 'full'",
  )
  need(
    not model.grid.routed,
    'speculation checks drafts many at a time; the routers of this model keep '
    "tokens out of cells one by one; use generate.method='exits' or 'full'",
  )


def candidates(model: Body) -> tuple[Draft, ...]:
  """Ways to draft that are worth timing: short, longer, while it is sure.

  Raises:
    ConfigError: a model cannot draft.
  """
  check_model(model)
  ways = ((2, 0.0), (4, 0.0), (8, 0.6))
  return tuple(
    Draft(readout, length, threshold)
    for readout in range(model.grid.num_readouts - 1)
    for length, threshold in ways
  )


class Tally(NamedTuple):
  """What speculation did, counted where it is done; integers or int32 scalars.

  Attributes:
    rounds: of drafting and checking.
    drafted: tokens.
    accepted: drafts that stood.
    layers_run: cells; a check runs each of its cells once.
    heads_run: heads; a check runs its head once.
  """

  rounds: Number
  drafted: Number
  accepted: Number
  layers_run: Number
  heads_run: Number

  def plus(self, other: 'Tally') -> 'Tally':
    """Both together."""
    return Tally(*(a + b for a, b in zip(self, other)))


NOTHING = Tally(0, 0, 0, 0, 0)
