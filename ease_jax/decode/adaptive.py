"""Speculation that adapts: who drafts, and how much, chosen in every round.

The idea of DEL (Entezari Zarch et al. 2504.05598). A check knows the full
model's tokens, and each readout's state says what that readout would have
drafted in the same places. So one run teaches how often every readout is right,
and a round drafts where most tokens come out for what it costs.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ease_jax.checks import Count, Different, Range, check_fields, need
from ease_jax.core.costs import CostModel
from ease_jax.core.grid import Grid
from ease_jax.core.signals import MAX_PROB
from ease_jax.decode.drafts import Choice, Draft, Looked, check_model
from ease_jax.model import Body


class Memory(NamedTuple):
  """What is known of each readout that may draft: sums that fade.

  Attributes:
    right_C: chances that its drafts would have stood.
    score_C: how sure it was of them.
    seen_C: how many they were.
    round: rounds so far.
  """

  right_C: jax.Array
  score_C: jax.Array
  seen_C: jax.Array
  round: jax.Array


@dataclasses.dataclass(frozen=True)
class Adaptive:
  """Drafts whose readout and length are chosen on the way (static).

  Attributes:
    lengths: most drafts before a check, to choose from; a check is compiled
      for each.
    decay: what a round counts when the next one has been seen.
    look_every: rounds from one look at all readouts to the next, each a head
      for every readout that did not draft. The one that did is always known.
    early_stop: whether drafting ends where one more token is not worth it.
  """

  lengths: Annotated[tuple[Count, ...], Different()] = (1, 2, 4, 8)
  decay: Annotated[float, Range(0, 1, above=True, below=True)] = 0.9
  look_every: Count = 4
  early_stop: bool = True

  signal = MAX_PROB.name  # a score that is a chance

  def __post_init__(self):
    check_fields('generate.adaptive', self)
    need(
      len(self.lengths) > 0 and self.lengths == tuple(sorted(self.lengths)),
      f'generate.adaptive.lengths={self.lengths} must name one length or more, '
      'the shortest first; for example (1, 2, 4, 8)',
    )

  def check(self, model: Body) -> None:
    """Raises ConfigError if a model cannot draft like this."""
    check_model(model)
    need(
      not model.grid.coda,
      'generate.drafting=adaptive asks all readouts what they would have '
      'drafted, and this model has a coda before its head, which would run for '
      'each of them; use fixed',
    )

  def readouts(self, grid: Grid) -> tuple[int, ...]:
    """Those that may draft: all but the last."""
    return tuple(range(grid.num_readouts - 1))

  def begin(self, grid: Grid) -> Memory:
    """Every readout's drafts may be right or wrong, of which it is half sure.

    That counts as two tokens, and fades like them.
    """
    one_C = jnp.ones(len(self.readouts(grid)))
    return Memory(one_C, one_C, 2 * one_C, jnp.int32(0))

  def prices(self, prices: CostModel) -> np.ndarray:
    """What a round costs by readout and length, [C, N] full passes.

    A draft runs the cells up to its readout and a head; a check runs the others
    and a head, once for all drafts: a cell costs what it costs one token, since
    weights are read once. A look's heads are spread over its rounds.
    """
    draft_C = self.draft_prices(prices)
    head = prices.head / prices.full
    # The cells that a draft did not run, and the last head.
    check_C = 1 + head - draft_C
    look = (len(draft_C) - 1) * head / self.look_every
    length_N = np.asarray(self.lengths)
    return draft_C[:, None] * length_N + check_C[:, None] + look

  def draft_prices(self, prices: CostModel) -> np.ndarray:
    """What one draft costs by readout, [C] full passes: cells and a head."""
    readouts = list(self.readouts(prices.grid))
    return prices.static_K[readouts] / prices.full

  def choose(self, memory: Memory, prices: CostModel) -> Choice:
    """The readout and length that bring most tokens for what they cost.

    Drafting ends early where one more token would bring less than that: it
    comes out only if all drafts before it stand.
    """
    alpha_C = memory.right_C / memory.seen_C
    token_CxN = expected_tokens(alpha_C, self.lengths)
    price_CxN = jnp.asarray(self.prices(prices), jnp.float32)
    rate_CxN = token_CxN / price_CxN
    drafter, place = jnp.unravel_index(rate_CxN.argmax(), rate_CxN.shape)

    least = jnp.float32(-jnp.inf)
    if self.early_stop:
      draft_C = jnp.asarray(self.draft_prices(prices), jnp.float32)
      least = rate_CxN.max() * draft_C[drafter]
    return Choice(
      drafter.astype(jnp.int32),
      jnp.asarray(self.lengths, jnp.int32)[place],
      least,
      (memory.right_C / memory.score_C)[drafter],
    )

  def sure(
    self, before: jax.Array, score: jax.Array, choice: Choice
  ) -> jax.Array:
    """Chance that all drafts so far stand.

    Args:
      before: the same before the newest.
      score: the newest's.
      choice: of the round.
    """
    return before * jnp.clip(score * choice.trust, 0, 1)

  def looks(self, memory: Memory) -> jax.Array:
    """Whether this round's check asks all readouts."""
    return memory.round % self.look_every == 0

  def learn(
    self, memory: Memory, looked: Looked | None, kept_N: jax.Array
  ) -> Memory:
    """What is known after a round.

    Args:
      memory: before it. Of a readout that was not asked it stays as it is.
      looked: what the readouts would have drafted.
      kept_N: inputs whose outputs came out; the others stand behind a wrong
        draft, or an end.
    """
    assert looked is not None
    known_C = looked.known_C

    def plus(sum_C: jax.Array, new_CxN: jax.Array) -> jax.Array:
      new_C = jnp.where(kept_N[None], new_CxN, 0).sum(1)
      return jnp.where(known_C, self.decay * sum_C + new_C, sum_C)

    return Memory(
      plus(memory.right_C, looked.chance_CxN),
      plus(memory.score_C, looked.score_CxN),
      plus(memory.seen_C, jnp.ones_like(looked.score_CxN)),
      memory.round + 1,
    )


Way = Draft | Adaptive


def expected_tokens(alpha_C: jax.Array, lengths: Sequence[int]) -> jax.Array:
  """Tokens that come out of a round, [C, N].

  One more than drafts stood, but no more than were made:
  1 + alpha + ... + alpha ** (length - 1).

  Args:
    alpha_C: chance of each readout's draft to stand.
    lengths: drafts of a round.
  """
  power_M = jnp.arange(max(lengths), dtype=jnp.float32)
  total_CxM = jnp.cumsum(alpha_C[:, None] ** power_M[None], 1)
  return total_CxM[:, np.asarray(lengths) - 1]
