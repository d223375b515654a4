"""Self-speculative decoding: an early readout drafts, the other cells check.

Drafting runs the cells up to one readout, token by token; checking takes the
streams it left there through the other cells, all drafts at once, on the same
cache. What comes out is distributed as the full model's own tokens (Leviathan
et al. 2211.17192, algorithm 1; layers shared as in LayerSkip, 2404.16710).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.decode import sampling as sample
from ease_jax.decode.acceptance import Proposed, accept
from ease_jax.decode.adaptive import Way
from ease_jax.decode.cache import Cache
from ease_jax.decode.checking import Checked, check, commit_checked
from ease_jax.decode.drafting import Drafts, How, Place, make_drafts
from ease_jax.decode.drafts import Choice, Memory, Tally
from ease_jax.model import Body, Params


class Row(NamedTuple):
  """One row and what has come of it; all of it lives in the loop.

  Attributes:
    token: the last one, which is not in the cache yet.
    position: its position.
    slot: its slot in the cache.
    done: whether the row is.
    key: of the sampling.
    cache: of the tokens before.
    memory: of how drafts are made.
    new_N: new tokens, then anything.
    count: how many are new.
    tally: what was done.
  """

  token: jax.Array
  position: jax.Array
  slot: jax.Array
  done: jax.Array
  key: jax.Array
  cache: Cache
  memory: Memory
  new_N: jax.Array
  count: jax.Array
  tally: Tally


class _Ends(NamedTuple):
  """Where a row ends."""

  position: jax.Array  # the first at which there is no token
  eos_id: jax.Array  # -1 = none


@functools.partial(
  jax.jit,
  static_argnames=('num', 'model', 'draft', 'sampling'),
  donate_argnames='cache',
)
def rounds(
  params: Params,
  cache: Cache,
  memory: Memory,
  token: jax.Array,
  position: jax.Array,
  slot: jax.Array,
  key: jax.Array,
  end: jax.Array,
  eos_id: jax.Array,
  *,
  num: int,
  model: Body,
  draft: Way,
  sampling: sample.Sampling,
) -> Row:
  """Rounds of drafting and checking until there are `num` new tokens.

  There may be up to one less than the longest draft more.

  Args:
    params: the model's parameters.
    cache: of one row; used up.
    memory: of the rounds before, or `draft.begin(model.grid)`.
    token, position, slot: the last token, which is not in the cache yet.
    key: of the sampling.
    end: the first position at which there is no token.
    eos_id: ends the row; -1 = none.
    num: new tokens that are wanted.
    model, draft, sampling: what is decoded and how.
  """
  # Attention reads all of the cache, so that is what it costs.
  prices = model.costs(cache.capacity)
  how = How(model.bind({'params': params}), draft, sampling, prices)
  ends = _Ends(end, eos_id)
  zero = jnp.int32(0)
  chosen_CxN = jnp.zeros((len(how.readouts), len(draft.lengths)), jnp.int32)
  row = Row(
    token,
    position,
    slot,
    position + 1 >= end,
    key,
    cache,
    memory,
    jnp.zeros(num + max(draft.lengths), jnp.int32),
    zero,
    Tally(zero, zero, zero, zero, zero, chosen_CxN),
  )

  def goes_on(row: Row) -> jax.Array:
    return (row.count < num) & ~row.done

  return jax.lax.while_loop(goes_on, functools.partial(_round, how, ends), row)


def _round(how: How, ends: _Ends, row: Row) -> Row:
  draft = how.draft
  key, draft_key, check_key = jax.random.split(row.key, 3)
  left = ends.position - 1 - row.position  # tokens that may still come
  place = Place(row.token, row.position, row.slot)

  # What is known here is known of earlier rounds: a choice that looked at the
  # tokens to come would change how they are distributed.
  choice = draft.choose(row.memory, how.prices)
  drafts = make_drafts(how, row.cache, place, choice, draft_key, left)
  checked = check(how, place, drafts, choice, draft.looks(row.memory))
  verdict = accept(
    checked.logits_NxV,
    Proposed(drafts.num, drafts.draft_N, drafts.q_NxV),
    check_key,
    how.sampling,
  )

  n_N = jnp.arange(max(draft.lengths))
  ends_N = (verdict.token_N == ends.eos_id) & (n_N < verdict.num)
  first_end = jnp.where(ends_N.any(), ends_N.argmax() + 1, len(n_N))
  keep = jnp.minimum(verdict.num, first_end)
  kept_N = n_N < keep

  position = row.position + keep
  done = ends_N.any() | (position + 1 >= ends.position)
  right = jnp.minimum(verdict.num_right, keep)
  return Row(
    verdict.token_N[keep - 1],
    position,
    row.slot + keep,
    done,
    key,
    commit_checked(how, drafts.cache, checked, choice, kept_N, row.slot),
    draft.learn(row.memory, checked.looked, kept_N),
    jax.lax.dynamic_update_slice(row.new_N, verdict.token_N, (row.count,)),
    row.count + keep,
    row.tally.plus(_tally(how, choice, drafts, checked, right)),
  )


def _tally(
  how: How, choice: Choice, drafts: Drafts, checked: Checked, right: jax.Array
) -> Tally:
  """What one round did."""
  grid = how.bound.grid
  reach = how.reach(choice.drafter)
  drafter_Cx1 = jnp.arange(len(how.readouts))[:, None]
  length_1xN = jnp.asarray(how.draft.lengths)[None]
  chosen_CxN = (drafter_Cx1 == choice.drafter) & (length_1xN == choice.length)
  return Tally(
    rounds=1,
    drafted=drafts.num,
    accepted=right,
    layers_run=drafts.num * (reach + len(grid.coda)) + grid.depth - reach,
    heads_run=drafts.num + checked.heads_run,
    chosen_CxN=chosen_CxN.astype(jnp.int32),
  )
