"""Self-speculative decoding: an early readout drafts, the other cells check.

Drafting runs the cells up to one readout, token by token; checking takes the
streams it left there through the other cells, all drafts at once, on the same
cache. What comes out is distributed as the full model's own tokens (Leviathan
et al. 2211.17192, algorithm 1; layers shared as in LayerSkip, 2404.16710).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.core.grid import Cell
from ease_jax.core.signals import SIGNALS
from ease_jax.decode import cache as caches
from ease_jax.decode import cells
from ease_jax.decode import sampling as sample
from ease_jax.decode.acceptance import Proposed, accept
from ease_jax.decode.cache import Cache, New
from ease_jax.decode.drafts import Draft, Tally
from ease_jax.model import Body, Params, readout
from ease_jax.model.layers import KV, causal_mask
from ease_jax.model.walk import RUNNING, State, Travel, Walked, walk


class Row(NamedTuple):
  """One row and what has come of it; all of it lives in the loop.

  Attributes:
    token: the last one, which is not in the cache yet.
    position: its position.
    slot: its slot in the cache.
    done: whether the row is.
    key: of the sampling.
    cache: of the tokens before.
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
  new_N: jax.Array
  count: jax.Array
  tally: Tally


class _Ends(NamedTuple):
  """Where a row ends."""

  position: jax.Array  # the first at which there is no token
  eos_id: jax.Array  # -1 = none


class _How(NamedTuple):
  """What is static in a round."""

  bound: Body
  draft: Draft
  sampling: sample.Sampling


@functools.partial(
  jax.jit,
  static_argnames=('num', 'model', 'draft', 'sampling'),
  donate_argnames='cache',
)
def rounds(
  params: Params,
  cache: Cache,
  token: jax.Array,
  position: jax.Array,
  slot: jax.Array,
  key: jax.Array,
  end: jax.Array,
  eos_id: jax.Array,
  *,
  num: int,
  model: Body,
  draft: Draft,
  sampling: sample.Sampling,
) -> Row:
  """Rounds of drafting and checking until there are `num` new tokens.

  There may be up to `draft.length - 1` more.

  Args:
    params: the model's parameters.
    cache: of one row; used up.
    token, position, slot: the last token, which is not in the cache yet.
    key: of the sampling.
    end: the first position at which there is no token.
    eos_id: ends the row; -1 = none.
    num: new tokens that are wanted.
    model, draft, sampling: what is decoded and how.
  """
  how = _How(model.bind({'params': params}), draft, sampling)
  ends = _Ends(end, eos_id)
  zero = jnp.int32(0)
  row = Row(
    token,
    position,
    slot,
    position + 1 >= end,
    key,
    cache,
    jnp.zeros(num + draft.length, jnp.int32),
    zero,
    Tally(zero, zero, zero, zero, zero),
  )

  def goes_on(row: Row) -> jax.Array:
    return (row.count < num) & ~row.done

  return jax.lax.while_loop(goes_on, functools.partial(_round, how, ends), row)


def _round(how: _How, ends: _Ends, row: Row) -> Row:
  draft = how.draft
  grid = how.bound.grid
  key, draft_key, check_key = jax.random.split(row.key, 3)
  left = ends.position - 1 - row.position  # tokens that may still come

  drafts = _draft(how, row, draft_key, left)
  checked, kv = _check(how, row, drafts)
  verdict = accept(
    checked,
    Proposed(drafts.num, drafts.draft_N, drafts.q_NxV),
    check_key,
    how.sampling,
  )

  n_N = jnp.arange(draft.length)
  ends_N = (verdict.token_N == ends.eos_id) & (n_N < verdict.num)
  first_end = jnp.where(ends_N.any(), ends_N.argmax() + 1, draft.length)
  keep = jnp.minimum(verdict.num, first_end)

  # A rejected draft leaves nothing that could be seen.
  seen_Lx1xN = jnp.broadcast_to(
    (n_N < keep)[None, None], (grid.depth, 1, draft.length)
  )
  cache = caches.commit(drafts.cache, New(kv, seen_Lx1xN), row.slot)
  position = row.position + keep
  done = ends_N.any() | (position + 1 >= ends.position)
  tally = Tally(
    row.tally.rounds + 1,
    row.tally.drafted + drafts.num,
    row.tally.accepted + jnp.minimum(verdict.num_right, keep),
    row.tally.layers_run + drafts.layers_run + len(kv),
    row.tally.heads_run + drafts.num + 1,
  )
  return Row(
    verdict.token_N[keep - 1],
    position,
    row.slot + keep,
    done,
    key,
    cache,
    jax.lax.dynamic_update_slice(row.new_N, verdict.token_N, (row.count,)),
    row.count + keep,
    tally,
  )


def _in_branch(always: jax.Array, run: Callable[[], Any]) -> Any:
  """Runs what reads the cache in a branch, although it is always taken.

  XLA then writes to the cache in place; in one straight program it keeps a
  copy of all of it for the readers.
  """

  def nothing() -> Any:
    shapes = jax.eval_shape(run)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

  return jax.lax.cond(always, run, nothing)


class _Drafts(NamedTuple):
  """Drafts of a round.

  Attributes:
    num: made; the rest is empty.
    token_N: inputs: the last token and all drafts but the newest.
    draft_N: outputs.
    state: the streams where they were read, [1, N, D].
    q_NxV: log-weights that they were drawn from.
    cache: with what the drafting cells made.
    goes_on: whether another may be made.
    key: of the sampling.
    layers_run: cells.
  """

  num: jax.Array
  token_N: jax.Array
  draft_N: jax.Array
  state: State
  q_NxV: jax.Array
  cache: Cache
  goes_on: jax.Array
  key: jax.Array
  layers_run: jax.Array


def _draft(how: _How, row: Row, key: jax.Array, left: jax.Array) -> _Drafts:
  bound, draft, sampling = how
  num = draft.length
  w_VxD = bound.unembedding()
  score_of = SIGNALS[draft.signal].step
  drafting = bound.grid.between(None, draft.readout)
  number_L = jnp.arange(bound.grid.depth)
  seen_Lx1x1 = (number_L < len(drafting))[:, None, None]

  def made(d: _Drafts) -> _Drafts:
    token = jnp.where(d.num == 0, row.token, d.draft_N[d.num - 1])
    walked = _walked_cells(
      bound,
      d.cache,
      drafting,
      position_1xT=(row.position + d.num)[None, None],
      state=None,
      token_1xT=token[None, None],
      always=d.goes_on,
    )
    normed_1xD = bound.normed(draft.readout, walked.state[RUNNING])[0]
    logits_1xV = readout.logits(normed_1xD, w_VxD)
    obs = readout.statistics(logits_1xV, jnp.zeros(1, jnp.int32))
    _, score_1 = score_of((), obs)

    key, draw_key = jax.random.split(d.key)
    new = sample.draw(logits_1xV, draw_key[None], sampling)[0]
    addition = New(_numbered(drafting, walked), seen_Lx1x1)
    cache = caches.commit(d.cache, addition, row.slot + d.num)

    def put(xs: jax.Array, x: jax.Array) -> jax.Array:
      return jax.lax.dynamic_update_index_in_dim(xs, x, d.num, 0)

    def put_state(xs_1xNxD: jax.Array, x_1x1xD: jax.Array) -> jax.Array:
      return jax.lax.dynamic_update_slice_in_dim(
        xs_1xNxD, x_1x1xD, d.num, axis=1
      )

    return _Drafts(
      d.num + 1,
      put(d.token_N, token),
      put(d.draft_N, new),
      jax.tree.map(put_state, d.state, walked.state),
      put(d.q_NxV, sample.log_weights(logits_1xV, sampling)[0]),
      cache,
      score_1[0] >= draft.threshold,
      key,
      d.layers_run + len(drafting),
    )

  token_1xN = jnp.zeros((1, num), jnp.int32)
  streams = jax.eval_shape(bound.start, token_1xN, token_1xN)
  start = _Drafts(
    jnp.int32(0),
    token_1xN[0],
    token_1xN[0],
    jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), streams),
    jnp.zeros((num, bound.cfg.vocab_size)),
    row.cache,
    jnp.bool_(True),
    key,
    jnp.int32(0),
  )
  most = jnp.minimum(num, left)

  def goes_on(d: _Drafts) -> jax.Array:
    return (d.num < most) & d.goes_on

  return jax.lax.while_loop(goes_on, made, start)


class _Cells(NamedTuple):
  """A walk through some cells, without what cannot leave a branch."""

  state: State
  kv: tuple[KV | None, ...]


def _walked_cells(
  bound: Body,
  cache: Cache,
  some_cells: Sequence[Cell],
  *,
  position_1xT: jax.Array,
  state: State | None,
  token_1xT: jax.Array,
  always: jax.Array,
) -> _Cells:
  """Runs some cells of one row, from a state or from its tokens."""
  mask_1xTxT = causal_mask(position_1xT.shape[1])

  def run() -> _Cells:
    layer = cells.cached(bound, cache, position_1xT, mask_1xTxT, skip=False)
    streams = state
    if streams is None:
      streams = bound.start(token_1xT, position_1xT)
    walked = walk(
      bound,
      some_cells,
      streams,
      None,
      layer=layer,
      travel=Travel(position_1xT),
    )
    return _Cells(walked.state, walked.kv)

  return _in_branch(always, run)


def _numbered(some_cells: Sequence[Cell], walked: _Cells | Walked):
  return {
    cell.number: own
    for cell, own in zip(some_cells, walked.kv, strict=True)
    if own is not None
  }


def _check(
  how: _How, row: Row, drafts: _Drafts
) -> tuple[jax.Array, dict[int, KV]]:
  """The full model's logits after each input, and its deep K/V."""
  bound, draft, _ = how
  last = bound.grid.num_readouts - 1
  checking = bound.grid.between(draft.readout, last)
  walked = _walked_cells(
    bound,
    drafts.cache,
    checking,
    position_1xT=(row.position + jnp.arange(draft.length))[None],
    state=drafts.state,
    token_1xT=drafts.token_N[None],
    always=drafts.num > 0,
  )
  normed_NxD = bound.normed(last, walked.state[RUNNING])[0]
  logits_NxV = readout.logits(normed_NxD, bound.unembedding())
  return logits_NxV, _numbered(checking, walked)
