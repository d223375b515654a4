"""How drafts of self-speculative decoding are made, and what came of them."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ease_jax.checks import Count, Size, Threshold, check_fields, need
from ease_jax.core.costs import CostModel
from ease_jax.core.grid import Grid
from ease_jax.core.signals import MAX_PROB, SIGNALS
from ease_jax.core.spec import HEAD
from ease_jax.model import Body

Number = int | jax.Array | np.ndarray
Memory = Any  # tree of arrays: what a way to draft keeps between rounds


class Choice(NamedTuple):
  """How one round drafts; scalars.

  Attributes:
    drafter: place of the readout that drafts among those that may.
    length: most drafts.
    least: drafting ends where it is less sure than this.
    trust: chance that a draft stands, for each unit of its score.
  """

  drafter: jax.Array
  length: jax.Array
  least: jax.Array
  trust: jax.Array


class Looked(NamedTuple):
  """What the readouts that may draft would have said in a round.

  Attributes:
    chance_CxN: chance that their token would have stood, behind each input.
    score_CxN: how sure they were of it.
    known_C: whether these were asked.
  """

  chance_CxN: jax.Array
  score_CxN: jax.Array
  known_C: jax.Array


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

  @property
  def lengths(self) -> tuple[int, ...]:
    """Most drafts of a round, of each size that is compiled."""
    return (self.length,)

  def readouts(self, grid: Grid) -> tuple[int, ...]:
    """Those that may draft."""
    del grid
    return (self.readout,)

  def begin(self, grid: Grid) -> Memory:
    """What is known before the first round: nothing ever is."""
    del grid
    return ()

  def choose(self, memory: Memory, prices: CostModel) -> Choice:
    """The same in each round."""
    del memory, prices
    least = jnp.float32(self.threshold)
    return Choice(jnp.int32(0), jnp.int32(self.length), least, jnp.float32(1))

  def sure(
    self, before: jax.Array, score: jax.Array, choice: Choice
  ) -> jax.Array:
    """How sure drafting is after one more draft: its score."""
    del before, choice
    return score

  def looks(self, memory: Memory) -> None:
    """Other readouts are never asked what they would have drafted."""
    del memory

  def learn(
    self, memory: Memory, looked: Looked | None, kept_N: jax.Array
  ) -> Memory:
    """Nothing."""
    del looked, kept_N
    return memory

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
    not model.grid.routed,
    'speculation checks drafts many at a time; the routers of this model keep '
    "tokens out of cells one by one; use generate.method='exits' or 'full'",
  )
  need(
    not model.grid.has_asides,
    'speculation goes on from the state that drafted, and readouts with blocks '
    "of their own are beside it; use generate.method='exits' or 'full'",
  )
  need(
    HEAD not in model.cfg.readout_adapters,
    'speculation drafts with the head that checks, and readouts have heads of '
    "their own; use generate.method='exits' or 'full'",
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
  """What speculation did, counted where it is done.

  Integers, or int32 arrays; `chosen_CxN` is an array or 0.

  Attributes:
    rounds: of drafting and checking.
    drafted: tokens.
    accepted: drafts that stood.
    layers_run: cells; a check runs each of its cells once.
    heads_run: heads; a check runs its head once, and those of other readouts
      that it asks what they would have drafted.
    chosen_CxN: rounds by readout that drafted and by length that was chosen.
  """

  rounds: Number
  drafted: Number
  accepted: Number
  layers_run: Number
  heads_run: Number
  chosen_CxN: Number

  def plus(self, other: 'Tally') -> 'Tally':
    """Both together."""
    return Tally(*(a + b for a, b in zip(self, other)))


NOTHING = Tally(0, 0, 0, 0, 0, 0)
