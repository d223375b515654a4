"""The full model checks drafts: the other cells, all drafts at once.

In the same pass it may ask every readout that may draft what it would have
said.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.core.signals import SIGNALS
from ease_jax.decode import cache as caches
from ease_jax.decode import sampling as sample
from ease_jax.decode.cache import Cache, New
from ease_jax.decode.drafting import Drafts, How, Place, run_coda, run_span
from ease_jax.decode.drafts import Choice, Looked
from ease_jax.model import readout
from ease_jax.model.attention import KV


class Checked(NamedTuple):
  """What a check comes to; behind the drafts that were made, anything.

  Attributes:
    logits_NxV: of the full model after each input.
    kv: keys and values of the cells behind the first readout that may draft.
    looked: what all readouts would have drafted; None if none learns.
    heads_run: its own, and those of readouts that it asked.
  """

  logits_NxV: jax.Array
  kv: dict[int, KV]
  looked: Looked | None
  heads_run: jax.Array


def check(
  how: How,
  place: Place,
  drafts: Drafts,
  choice: Choice,
  looks: jax.Array | None,
) -> Checked:
  """Runs the shortest of the compiled checks that holds all drafts.

  Args:
    how: a round's model.
    place: of the last token.
    drafts: what is checked.
    choice: of the round.
    looks: whether to ask the readouts that did not draft; None = nobody, not
      even the one that did.
  """
  lengths = how.draft.lengths
  most = max(lengths)
  drafts = drafts._replace(cache=_without_coda(how, place, drafts.cache, most))
  checks = [
    functools.partial(_of_length, how, place, drafts, choice, looks, num, most)
    for num in lengths
  ]
  if len(checks) == 1:
    return checks[0]()
  which = jnp.searchsorted(jnp.asarray(lengths), drafts.num)
  return jax.lax.switch(which, checks)


def _of_length(
  how: How,
  place: Place,
  drafts: Drafts,
  choice: Choice,
  looks: jax.Array | None,
  num: int,
  most: int,
) -> Checked:
  """A check of the first `num` inputs, padded to `most`."""
  bound = how.bound
  last = bound.grid.num_readouts - 1
  position_1xN = (place.position + jnp.arange(num))[None]
  state = jax.tree.map(lambda x_1xNxD: x_1xNxD[:, :num], drafts.state)
  normed = [drafts.normed_CxNxD[0, :num]]
  kv: dict[int, KV] = {}

  for c, span in enumerate(how.spans[1:]):
    runs = (drafts.num > 0) & (c >= choice.drafter)
    state, new = run_span(how, drafts.cache, span, state, position_1xN, runs)
    h_1xNxD, behind = run_coda(how, drafts.cache, state, position_1xN, runs)
    k = (*how.readouts, last)[c + 1]
    normed.append(bound.normed(k, h_1xNxD)[0])
    kv |= new | behind

  logits_NxV = readout.logits(normed.pop(), bound.head())
  looked = None
  heads_run = jnp.int32(1)
  if looks is not None:
    drafted_CxNxD = drafts.normed_CxNxD[:, :num]
    behind_C = jnp.arange(len(normed)) > choice.drafter
    normed_CxNxD = jnp.where(
      behind_C[:, None, None], jnp.stack(normed), drafted_CxNxD
    )
    looked, asked = _looked(
      how, drafts, choice, looks, normed_CxNxD, logits_NxV
    )
    looked = looked._replace(
      chance_CxN=_padded(looked.chance_CxN, 1, most),
      score_CxN=_padded(looked.score_CxN, 1, most),
    )
    heads_run += asked

  return Checked(
    _padded(logits_NxV, 0, most),
    jax.tree.map(lambda x_1xNxGxD: _padded(x_1xNxGxD, 1, most), kv),
    looked,
    heads_run,
  )


def _without_coda(how: How, place: Place, cache: Cache, most: int) -> Cache:
  """The cache, in whose coda no draft is seen: a check makes it anew."""
  if not how.bound.grid.coda:
    return cache
  coda_Lx1xN = jnp.broadcast_to(
    how.coda_L[:, None, None], (how.bound.grid.num_cells, 1, most)
  )
  nobody_Lx1xN = jnp.zeros(coda_Lx1xN.shape, bool)
  return caches.commit(cache, New({}, nobody_Lx1xN, coda_Lx1xN), place.slot)


def _padded(x: jax.Array, axis: int, size: int) -> jax.Array:
  """With zeros behind, so that there are so many."""
  widths = [(0, 0)] * x.ndim
  widths[axis] = (0, size - x.shape[axis])
  return jnp.pad(x, widths)


def _looked(
  how: How,
  drafts: Drafts,
  choice: Choice,
  looks: jax.Array,
  normed_CxNxD: jax.Array,
  logits_NxV: jax.Array,
) -> tuple[Looked, jax.Array]:
  """What all readouts would have drafted, and how many heads that took.

  A token drawn from q stands with chance sum(min(p, q)), where p is the full
  model's distribution (2211.17192, section 3.4); greedily that is 1 or 0.
  """
  num = len(logits_NxV)
  w_VxD = how.bound.head()
  p_NxV = jax.nn.softmax(sample.log_weights(logits_NxV, how.sampling))

  def chance(q_NxV: jax.Array) -> jax.Array:
    return jnp.minimum(p_NxV, jax.nn.softmax(q_NxV)).sum(1)

  def asked(normed_NxD: jax.Array) -> tuple[jax.Array, jax.Array]:
    logits_NxV = readout.logits(normed_NxD, w_VxD)
    obs = readout.statistics(logits_NxV, jnp.zeros(num, jnp.int32))
    _, score_N = SIGNALS[how.draft.signal].step((), obs)
    return chance(sample.log_weights(logits_NxV, how.sampling)), score_N

  def not_asked(normed_NxD: jax.Array) -> tuple[jax.Array, jax.Array]:
    del normed_NxD
    return jnp.zeros(num), jnp.zeros(num)

  itself_C = jnp.arange(len(normed_CxNxD)) == choice.drafter
  asks_C = looks & ~itself_C
  found = [
    jax.lax.cond(asks, asked, not_asked, normed_NxD)
    for asks, normed_NxD in zip(asks_C, normed_CxNxD)
  ]
  chance_CxN, score_CxN = map(jnp.stack, zip(*found))
  # The drafter's logits are there already.
  own_N = chance(drafts.q_NxV[:num])
  chance_CxN = jnp.where(itself_C[:, None], own_N[None], chance_CxN)
  own_1xN = drafts.score_N[None, :num]
  score_CxN = jnp.where(itself_C[:, None], own_1xN, score_CxN)

  return Looked(chance_CxN, score_CxN, itself_C | looks), asks_C.sum()


def commit_checked(
  how: How,
  cache: Cache,
  checked: Checked,
  choice: Choice,
  seen_N: jax.Array,
  slot: jax.Array,
) -> Cache:
  """The cache with what a check made; the old one is used up.

  Args:
    how: a round's model.
    cache: with what the drafting cells made.
    checked: of that.
    choice: of the round.
    seen_N: tokens that may be seen; a rejected draft leaves nothing that could.
    slot: of the first input.
  """
  num = how.bound.grid.num_cells
  seen_Lx1xN = jnp.broadcast_to(seen_N, (num, 1, len(seen_N)))
  if len(how.readouts) == 1:
    return caches.commit(cache, New(checked.kv, seen_Lx1xN), slot)

  # Cells that drafted keep what they have.
  ran_L = jnp.arange(num) >= how.reach(choice.drafter)
  ran_Lx1xN = jnp.broadcast_to(ran_L[:, None, None], seen_Lx1xN.shape)
  cache = caches.commit(cache, New(checked.kv, seen_Lx1xN, ran_Lx1xN), slot)
  return caches.commit(cache, New({}, seen_Lx1xN), slot)
