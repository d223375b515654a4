"""More tokens for every row, and prompts in one pass.

Both are the walk of the exit-consistent evaluation, with a cache to look back
at and without what no token needs.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.core.policies import ExitRule
from ease_jax.decode import cache as caches
from ease_jax.decode import cells, deferred, heads
from ease_jax.decode import sampling as sample
from ease_jax.decode.cache import Cache, New
from ease_jax.model import Body, Params
from ease_jax.model.exits import Counts, before_exits
from ease_jax.model.sight import causal_mask
from ease_jax.model.walk import Layer, Travel, Walked, walk


class Rows(NamedTuple):
  """Where each row of the batch stands.

  Attributes:
    token_B: the last token, which is not in the cache yet.
    position_B: its position.
    end_B: the first position at which the row has no token.
    done_B: whether the row wants no more tokens.
    key_B: of its sampling.
    window: tokens that may be behind; None where none ever is.
  """

  token_B: jax.Array
  position_B: jax.Array
  end_B: jax.Array
  done_B: jax.Array
  key_B: jax.Array
  window: deferred.Window | None = None


class Stepped(NamedTuple):
  """What a step did; N steps have a leading axis.

  Attributes:
    token_B: the next token of each row.
    exit_B: the readout that answered.
    live_B: rows that wanted a token.
    layers_run: cells that were run, for all rows together, as the program
      counted them.
    heads_run: heads, likewise.
    fills_run: cells of which only keys and values were made, likewise.
    passed_BxL: how many tokens of each row a router kept out of a cell that
      the step took them to; None where there is no router.
  """

  token_B: jax.Array
  exit_B: jax.Array
  live_B: jax.Array
  layers_run: jax.Array
  heads_run: jax.Array
  fills_run: jax.Array
  passed_BxL: jax.Array | None


class Answer(NamedTuple):
  """One more token of every row, before it is drawn."""

  exit_B: jax.Array
  logits_BxV: jax.Array
  window: deferred.Window | None
  new: New
  counts: Counts
  passed_BxL: jax.Array | None


@functools.partial(jax.jit, static_argnames=('model', 'rule', 'sampling'))
def step(
  params: Params,
  cache: Cache,
  rows: Rows,
  threshold_K: jax.Array,
  eos_id: jax.Array,
  *,
  model: Body,
  rule: ExitRule | None,
  sampling: sample.Sampling,
) -> tuple[Stepped, jax.Array, Rows, New]:
  """Decodes one token of every row.

  Rows share the cells that are run: as many as the deepest of them needs.
  What a row gets depends on no other row.

  Args:
    params: the model's parameters.
    cache: of the tokens before.
    rows: where the rows stand.
    threshold_K: one per readout; +inf never exits there. [K, B, 1] gives each
      row its own.
    eos_id: a row is done with this token; -1 = none.
    model: a body.
    rule: how tokens exit; None compiles the exits out.
    sampling: how tokens are drawn.

  Returns:
    What happened, the answering logits [B, V], where the rows stand now, and
    what `commit` takes.
  """
  caches.check(cache, model)
  heads.check(model, rule)
  bound = model.bind({'params': params})

  if rows.window is None:
    answer = _answer(bound, cache, rows, rule, threshold_K)
  else:
    assert rule is not None
    answer = Answer(
      *deferred.answer(
        bound,
        cache,
        rows.window,
        rows.token_B,
        rows.position_B,
        rows.done_B,
        rule,
        threshold_K,
      )
    )

  key_B = jax.vmap(jax.random.fold_in)(rows.key_B, rows.position_B)
  token_B = sample.draw(answer.logits_BxV, key_B, sampling)
  position_B = rows.position_B + ~rows.done_B
  at_end_B = position_B + 1 >= rows.end_B
  done_B = rows.done_B | (token_B == eos_id) | at_end_B

  counts = answer.counts
  stepped = Stepped(
    token_B,
    answer.exit_B,
    ~rows.done_B,
    counts.cells,
    counts.heads,
    counts.fills,
    answer.passed_BxL,
  )
  rows = rows._replace(
    token_B=token_B,
    position_B=position_B,
    done_B=done_B,
    window=answer.window,
  )
  return stepped, answer.logits_BxV, rows, answer.new


@functools.partial(
  jax.jit,
  static_argnames=('num', 'model', 'rule', 'sampling'),
  donate_argnames='cache',
)
def many_steps(
  params: Params,
  cache: Cache,
  rows: Rows,
  slot: jax.Array,
  threshold_K: jax.Array,
  eos_id: jax.Array,
  given_NxB: jax.Array | None = None,
  *,
  num: int,
  model: Body,
  rule: ExitRule | None,
  sampling: sample.Sampling,
) -> tuple[Stepped, Rows, Cache]:
  """Up to `num` steps, or until all rows are done, in one program.

  Args:
    params, cache, rows: as in `step`; the cache is used up.
    slot: the cache's next free one.
    threshold_K, eos_id: as in `step`.
    given_NxB: tokens that follow, whatever was predicted; None = the predicted.
    num: N.
    model, rule, sampling: as in `step`.

  Returns:
    What happened, [N, ...], with nobody live where nothing happened.
  """
  take_step = functools.partial(step, model=model, rule=rule, sampling=sampling)
  stepped, *_ = jax.eval_shape(
    take_step, params, cache, rows, threshold_K, eos_id
  )
  nothing = jax.tree.map(lambda x: jnp.zeros((num, *x.shape), x.dtype), stepped)

  def body(state):
    i, history, rows, cache = state
    stepped, _, rows, new = take_step(params, cache, rows, threshold_K, eos_id)
    history = jax.tree.map(lambda xs, x: xs.at[i].set(x), history, stepped)
    if given_NxB is not None:
      rows = rows._replace(token_B=given_NxB[i])

    behind = new.seen_LxBxT.shape[2] - 1
    cache = caches.commit(cache, new, slot + i - behind)
    return i + 1, history, rows, cache

  def goes_on(state):
    i, _, rows, _ = state
    return (i < num) & ~rows.done_B.all()

  start = 0, nothing, rows, cache
  _, history, rows, cache = jax.lax.while_loop(goes_on, body, start)
  return history, rows, cache


def _answer(
  bound: Body,
  cache: Cache,
  rows: Rows,
  rule: ExitRule | None,
  threshold_K: jax.Array,
) -> Answer:
  """One token in every row, none of them behind."""
  done_Bx1 = rows.done_B[:, None]
  position_Bx1 = rows.position_B[:, None]
  asked_K = None if rule is None else heads.asked(bound.grid, threshold_K, rule)
  layer = cells.cached(
    bound, cache, position_Bx1, causal_mask(1), skip=True, asked_K=asked_K
  )
  travel = Travel(position_Bx1)

  walked = walk(
    bound,
    bound.grid.cells,
    bound.start(rows.token_B[:, None], position_Bx1),
    heads.before(bound, rule, done_Bx1),
    layer=layer,
    travel=travel,
    read=heads.speaking(bound, rule, threshold_K),
    policy=None if rule is None else rule.policy,
  )
  assert walked.exits is not None
  tail = through_coda(bound, walked, done_Bx1, layer, travel)
  logits_Bx1xV, counts = heads.answer_of(bound, walked, tail, done_Bx1)
  exit_B = walked.exits.exit_BxT[:, 0]
  return Answer(
    exit_B,
    logits_Bx1xV[:, 0],
    None,
    cells.addition([walked, tail], done_Bx1),
    counts,
    cells.passed(bound, walked, exit_B),
  )


def through_coda(
  bound: Body,
  walked: Walked,
  absent_BxT: jax.Array,
  layer: Layer,
  travel: Travel,
) -> Walked:
  """The coda on the states that answer; nothing where there is no coda."""
  assert walked.exits is not None
  answer = walked.exits.answer
  state = answer if bound.grid.coda else walked.state
  return walk(
    bound,
    bound.grid.tail,
    state,
    before_exits(absent_BxT),
    layer=layer,
    travel=travel,
  )


@functools.partial(jax.jit, static_argnames=('slots', 'model', 'rule'))
def prefill(
  params: Params,
  token_BxT: jax.Array,
  length_B: jax.Array,
  threshold_K: jax.Array,
  *,
  slots: int,
  model: Body,
  rule: ExitRule | None,
) -> Cache:
  """A cache of prompts, filled in one parallel pass.

  Args:
    params: the model's parameters.
    token_BxT: right-aligned prompts; T may be 0.
    length_B: how many tokens each has.
    threshold_K: one per readout.
    slots: room for so many tokens, T of which are taken.
    model: a body.
    rule: how prompt tokens exit; None sends them through all cells.
  """
  heads.check(model, rule)
  batch_size, width = token_BxT.shape
  cache = caches.init_cache(model, batch_size, slots)
  if width == 0:
    return cache

  bound = model.bind({'params': params})
  first_B = jnp.asarray(width - length_B, jnp.int32)
  cache = cache._replace(first_B=first_B)
  position_BxT = jnp.arange(width)[None] - first_B[:, None]
  absent_BxT = position_BxT < 0
  position_BxT = jnp.maximum(position_BxT, 0)
  mask_BxTxT = causal_mask(width) & ~absent_BxT[:, None, :]
  # Where prompts do not exit, what is written may still ask every readout.
  asked_K = jnp.zeros(model.grid.num_readouts, bool)
  if rule is not None:
    asked_K = heads.asked(model.grid, threshold_K, rule)
  layer = cells.cached(
    bound,
    None,
    position_BxT,
    mask_BxTxT,
    skip=rule is not None,
    asked_K=asked_K,
  )
  travel = Travel(position_BxT)

  walked = walk(
    bound,
    bound.grid.cells,
    bound.start(token_BxT, position_BxT),
    heads.before(bound, rule, absent_BxT),
    layer=layer,
    travel=travel,
    read=heads.silent(bound, rule, threshold_K, token_BxT),
    policy=None if rule is None else rule.policy,
  )
  tail = through_coda(bound, walked, absent_BxT, layer, travel)
  new = cells.addition([walked, tail], absent_BxT)
  return caches.commit(cache, new, 0)
