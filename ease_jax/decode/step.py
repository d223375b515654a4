"""More tokens for every row, and prompts in one pass.

Both are `exits.walk`, the walk of the exit-consistent evaluation, with a cache
to look back at and without what no token needs.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.core import grid, signals
from ease_jax.decode import cache as caches
from ease_jax.decode import deferred, heads
from ease_jax.decode import sampling as sample
from ease_jax.decode.cache import Cache
from ease_jax.decode.heads import Asking
from ease_jax.model import exits
from ease_jax.model.exits import ExitSpec


class Rows(NamedTuple):
  """Where each row of the batch stands."""

  token_B: jax.Array  # the last one, not yet in the cache
  position_B: jax.Array  # its position
  end_B: jax.Array  # no token stands at this position
  done_B: jax.Array  # wants no more tokens
  key_B: jax.Array  # of its sampling
  window: deferred.Window | None = None  # tokens that may be behind


class Stepped(NamedTuple):
  """What a step found out; N steps have a leading axis."""

  token_B: jax.Array  # the next one
  exit_B: jax.Array  # the readout that answered
  live_B: jax.Array  # rows that wanted a token
  layers_run: jax.Array  # counted by the program, for all rows together
  heads_run: jax.Array
  fills_run: jax.Array  # layers of which only keys and values were made


@functools.partial(jax.jit, static_argnames=('model', 'spec', 'sampling'))
def step(
  params: Any,
  cache: Cache,
  rows: Rows,
  threshold_K: jax.Array,
  eos_id: jax.Array,
  *,
  model: Any,
  spec: ExitSpec | None,
  sampling: sample.Sampling,
) -> tuple[Stepped, jax.Array, Rows, caches.New]:
  """Decodes one token of every row.

  Rows share the layers that are run: as many as the deepest of them needs.
  What a row gets depends on no other row.

  Args:
    params: the model's parameters.
    cache: of the tokens before.
    rows: where the rows stand.
    threshold_K: one per readout; +inf never exits there. [K, B, 1] gives each
      row its own.
    eos_id: a row is done with this token; -1 = none.
    model: a body.
    spec: signal and K/V policy; None compiles the exits out.
    sampling: how tokens are drawn.

  Returns:
    What happened, the answering logits [B, V], where the rows stand now, and
    what `commit` takes.
  """
  caches.check(cache, model.cfg)
  bound = model.bind({'params': params})
  head = Asking(bound, spec, threshold_K)
  window = rows.window
  fills_run = jnp.int32(0)
  if window is None:
    exit_B, logits_BxV, new, layers_run, fills_run = _walk(
      bound, cache, rows, spec, head
    )
  else:
    exit_B, logits_BxV, window, new, layers_run = deferred.walk(
      bound, cache, window, rows.token_B, rows.position_B, rows.done_B, head
    )
  key_B = jax.vmap(jax.random.fold_in)(rows.key_B, rows.position_B)
  token_B = sample.draw(logits_BxV, key_B, sampling)
  position_B = rows.position_B + ~rows.done_B
  done_B = rows.done_B | (token_B == eos_id) | (position_B + 1 >= rows.end_B)
  out = Stepped(
    token_B, exit_B, ~rows.done_B, layers_run, head.heads_run, fills_run
  )
  rows = rows._replace(
    token_B=token_B, position_B=position_B, done_B=done_B, window=window
  )
  return out, logits_BxV, rows, new


@functools.partial(
  jax.jit,
  static_argnames=('num', 'model', 'spec', 'sampling'),
  donate_argnames='cache',
)
def many_steps(
  params: Any,
  cache: Cache,
  rows: Rows,
  slot: jax.Array,
  threshold_K: jax.Array,
  eos_id: jax.Array,
  given_NxB: jax.Array | None = None,
  *,
  num: int,
  model: Any,
  spec: ExitSpec | None,
  sampling: sample.Sampling,
) -> tuple[Stepped, Rows, Cache]:
  """Up to `num` steps, or until all rows are done, in one program.

  Args:
    params, cache, rows: see `step`; the cache is used up.
    slot: the cache's next free one.
    threshold_K, eos_id: see `step`.
    given_NxB: tokens that follow, whatever was predicted; None = the predicted.
    num: N.
    model, spec, sampling: see `step`.

  Returns:
    What happened, [N, ...], with nobody live where nothing happened.
  """
  one = functools.partial(step, model=model, spec=spec, sampling=sampling)
  args = threshold_K, eos_id
  shapes = jax.eval_shape(one, params, cache, rows, *args)[0]
  zeros = jax.tree.map(lambda x: jnp.zeros((num, *x.shape), x.dtype), shapes)

  def body(state):
    i, found, rows, cache = state
    out, _, rows, new = one(params, cache, rows, *args)
    found = jax.tree.map(lambda xs, x: xs.at[i].set(x), found, out)
    if given_NxB is not None:
      rows = rows._replace(token_B=given_NxB[i])
    behind = new.layers_BxT.shape[1] - 1
    return i + 1, found, rows, caches.commit(cache, new, slot + i - behind)

  def more(state):
    i, _, rows, _ = state
    return (i < num) & ~rows.done_B.all()

  return jax.lax.while_loop(more, body, (0, zeros, rows, cache))[1:]


def _walk(bound, cache, rows, spec, head):
  """A walk of one token in every row."""

  def look(layer, done_BxT):
    # Under `recompute` a token's layers are needed beyond its exit.
    needed = spec is not None and spec.policy == 'recompute'
    past = caches.past(cache, layer, None if needed else ~done_BxT[:, 0])
    return exits.block_mask(spec or ExitSpec(), done_BxT), past

  done_Bx1 = rows.done_B[:, None]
  walked = exits.walk(
    bound,
    spec or ExitSpec(),
    rows.token_B[:, None],
    rows.position_B[:, None],
    look,
    head,
    done_BxT=done_Bx1,
    skip=True,
  )
  seen_Bx1 = seen_layers(bound.cfg, spec, walked.exit_BxT, done_Bx1)
  new = caches.New(dict(enumerate(walked.kv)), seen_Bx1)
  return (
    walked.exit_BxT[:, 0],
    walked.answer[:, 0],
    new,
    walked.layers_run,
    walked.fills_run,
  )


def seen_layers(
  cfg: Any, spec: ExitSpec | None, exit_BxT: jax.Array, absent_BxT: jax.Array
) -> jax.Array:
  """In how many layers later tokens may see these, [B, T] int32."""
  depth_BxT = jnp.full(exit_BxT.shape, cfg.depth, jnp.int32)
  if spec is not None and spec.policy == 'drop':
    depth_BxT = jnp.asarray(cfg.depth_K, jnp.int32)[exit_BxT]
  return jnp.where(absent_BxT, 0, depth_BxT)


@functools.partial(jax.jit, static_argnames=('slots', 'model', 'spec'))
def prefill(
  params: Any,
  token_BxT: jax.Array,
  length_B: jax.Array,
  threshold_K: jax.Array,
  *,
  slots: int,
  model: Any,
  spec: ExitSpec | None,
) -> Cache:
  """A cache of prompts, filled in one parallel pass.

  Args:
    params: the model's parameters.
    token_BxT: right-aligned prompts; T may be 0.
    length_B: how many tokens each has.
    threshold_K: one per readout.
    slots: room for so many tokens, T of which are taken.
    model: a body.
    spec: how prompt tokens exit; None sends them through all layers.
  """
  cache = caches.init_cache(model.cfg, len(token_BxT), slots)
  if token_BxT.shape[1] == 0:
    return cache
  bound, last = model.bind({'params': params}), len(model.cfg.cells) - 1
  width = token_BxT.shape[1]
  position_BxT = jnp.arange(width)[None] - (width - length_B[:, None])
  absent_BxT = position_BxT < 0

  def look(layer, done_BxT):
    mask = exits.block_mask(spec or ExitSpec(), done_BxT)
    return mask & ~absent_BxT[:, None, :], ()

  def head(k, state, previous, memory, done_BxT):
    if spec is None or k == last:
      return memory, jnp.zeros_like(done_BxT), ()
    name = spec.signal

    def score():
      obs = exits.observe(bound, state, previous, token_BxT, name)
      return signals.SIGNALS[name].step(memory, obs)

    never = jnp.full(done_BxT.shape, -jnp.inf)
    asked = heads.asked(threshold_K, spec)[k]
    memory, score_BxT = jax.lax.cond(asked, score, lambda: (memory, never))
    return memory, asked & grid.exits(score_BxT, threshold_K[k]), ()

  walked = exits.walk(
    bound,
    spec or ExitSpec(),
    token_BxT,
    jnp.maximum(position_BxT, 0),
    look,
    head,
    done_BxT=absent_BxT,
    skip=spec is not None,
  )
  seen_BxT = seen_layers(model.cfg, spec, walked.exit_BxT, absent_BxT)
  new = caches.New(dict(enumerate(walked.kv)), seen_BxT)
  return caches.commit(cache, new, 0)
