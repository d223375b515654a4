"""Self-speculative decoding: an early readout drafts, the other layers check.

Drafting runs the layers up to one readout, token by token; checking takes the
states it left there through the other layers, all drafts at once, on the same
cache. What comes out is distributed as the full model's own tokens (Leviathan
et al. 2211.17192, algorithm 1; layers shared as in LayerSkip, 2404.16710).
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ease_jax.config import ConfigError
from ease_jax.core import signals
from ease_jax.decode import cache as caches
from ease_jax.decode import loop, spans
from ease_jax.decode import sampling as sample
from ease_jax.model import layers, readout

SIGNALS = ('max_prob', 'margin', 'entropy')


@dataclasses.dataclass(frozen=True)
class Draft:
  """How drafts are made (static).

  Attributes:
    readout: the one that drafts, an index below K - 1.
    length: most drafts before a check.
    threshold: drafting ends early below this score; -inf = never.
    signal: the score, one that looks at the drafting readout alone.
  """

  readout: int = 0
  length: int = 4
  threshold: float = -np.inf
  signal: str = 'max_prob'

  def __post_init__(self):
    if self.length < 1:
      raise ConfigError(f'draft length={self.length} must be at least 1')
    if self.signal not in SIGNALS:
      raise ConfigError(
        f'signal={self.signal!r} cannot draft: it compares readouts or needs '
        f'a learned head; use one of {SIGNALS}'
      )

  def check(self, cfg: Any) -> None:
    """Raises ConfigError if a model cannot draft like this."""
    _check_model(cfg)
    num = len(cfg.cells)
    if not 0 <= self.readout < num - 1:
      raise ConfigError(
        f'draft readout={self.readout} of a model with {num} readouts; only '
        f'0 to {num - 2} are before the last'
      )


def _check_model(cfg: Any) -> None:
  spans.check(cfg, 'speculation')
  if len(cfg.cells) == 1:
    raise ConfigError(
      'speculation drafts with a readout before the last; model.readouts='
      f'{cfg.readouts} is one; train with more readouts'
    )


def candidates(cfg: Any) -> tuple[Draft, ...]:
  """Ways to draft that are worth timing: short, longer, while it is sure.

  Raises:
    ConfigError: a model cannot draft.
  """
  _check_model(cfg)
  return tuple(
    Draft(readout, length, threshold)
    for readout in range(len(cfg.cells) - 1)
    for length, threshold in ((2, 0.0), (4, 0.0), (8, 0.6))
  )


class Tally(NamedTuple):
  """Counted where it is done."""

  rounds: Any
  drafted: Any
  accepted: Any  # of the drafts
  layers_run: Any  # a check runs each of its layers once
  heads_run: Any  # a check runs its head once


NOTHING = Tally(0, 0, 0, 0, 0)


class _State(NamedTuple):
  """Of one row; all of it lives in the loop."""

  token: jax.Array  # the last one, not yet in the cache
  position: jax.Array  # its position
  slot: jax.Array  # and its slot
  done: jax.Array
  key: jax.Array
  cache: caches.Cache
  found_N: jax.Array  # new tokens
  count: jax.Array  # of them
  tally: Tally


@functools.partial(
  jax.jit,
  static_argnames=('num', 'model', 'draft', 'sampling'),
  donate_argnames='cache',
)
def rounds(
  params: Any,
  cache: caches.Cache,
  token: jax.Array,
  position: jax.Array,
  slot: jax.Array,
  key: jax.Array,
  end: jax.Array,
  eos_id: jax.Array,
  *,
  num: int,
  model: Any,
  draft: Draft,
  sampling: sample.Sampling,
) -> _State:
  """Rounds of drafting and checking until there are `num` new tokens.

  There may be up to `draft.length - 1` more.

  Args:
    params: the model's parameters.
    cache: of one row; used up.
    token, position, slot: the last token, which is not in the cache yet.
    key: of the sampling.
    end: no token stands at this position.
    eos_id: ends the row; -1 = none.
    num: see above.
    model, draft, sampling: what and how.
  """
  bound = model.bind({'params': params})
  zero = jnp.int32(0)
  state = _State(
    token,
    position,
    slot,
    position + 1 >= end,
    key,
    cache,
    jnp.zeros(num + draft.length, jnp.int32),
    zero,
    Tally(*[zero] * 5),
  )
  one = functools.partial(_round, bound, draft, sampling, end, eos_id)
  return jax.lax.while_loop(lambda s: (s.count < num) & ~s.done, one, state)


def _round(bound, draft, sampling, end, eos_id, s: _State) -> _State:
  key, draft_key, check_key = jax.random.split(s.key, 3)
  left = end - 1 - s.position  # tokens that may still come
  drafts = _draft(bound, draft, sampling, s, draft_key, left)
  p_NxV, kv, layers_run = _check(bound, draft, s, drafts)
  taken_N, num_taken, num_right = _accept(p_NxV, drafts, check_key, sampling)
  n_N = jnp.arange(draft.length)
  ends_N = (taken_N == eos_id) & (n_N < num_taken)
  first_end = jnp.where(ends_N.any(), ends_N.argmax() + 1, draft.length)
  keep = jnp.minimum(num_taken, first_end)
  # A rejected draft leaves nothing that could be seen.
  depth_1xN = jnp.where(n_N < keep, bound.cfg.depth, 0)[None]
  cache = caches.commit(drafts.cache, caches.New(kv, depth_1xN), s.slot)
  position = s.position + keep
  accepted = jnp.minimum(num_right, keep)
  tally = add(
    s.tally,
    Tally(
      1, drafts.num, accepted, layers_run + drafts.layers_run, drafts.num + 1
    ),
  )
  return _State(
    taken_N[keep - 1],
    position,
    s.slot + keep,
    ends_N.any() | (position + 1 >= end),
    key,
    cache,
    jax.lax.dynamic_update_slice(s.found_N, taken_N, (s.count,)),
    s.count + keep,
    tally,
  )


def _in_branch(always: jax.Array, run: Any) -> Any:
  """Runs what reads the cache in a branch, although it is always taken.

  XLA then writes to the cache in place; in one straight program it keeps a
  copy of all of it for the readers.
  """
  nothing = lambda: jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(run)
  )
  return jax.lax.cond(always, run, nothing)


class _Drafts(NamedTuple):
  num: jax.Array  # made; the rest is empty
  token_N: jax.Array  # inputs: the last token and all drafts but the newest
  draft_N: jax.Array  # outputs
  state_1xNxD: jax.Array  # where they were read
  q_NxV: jax.Array  # log-weights that they were drawn from
  cache: caches.Cache
  goes_on: jax.Array
  key: jax.Array
  layers_run: jax.Array


def _draft(bound, draft, sampling, s: _State, key, left) -> _Drafts:
  cfg, num = bound.cfg, draft.length
  w_VxD = bound.unembedding()
  signal = signals.SIGNALS[draft.signal]

  def one(d: _Drafts) -> _Drafts:
    token = jnp.where(d.num == 0, s.token, d.draft_N[d.num - 1])
    look = lambda layer: (
      layers.causal_mask(1),
      caches.past(d.cache, layer, None),
    )
    h_1x1xD, kv = _in_branch(
      d.goes_on,
      functools.partial(
        spans.span,
        bound,
        token[None, None],
        (s.position + d.num)[None, None],
        look,
        start=None,
        stop=draft.readout,
        state_BxTxD=None,
      ),
    )
    n_1xD = bound.normed(draft.readout, h_1x1xD)[0]
    logits_1xV = readout.logits(n_1xD, w_VxD)
    obs = readout.statistics(logits_1xV, jnp.zeros(1, jnp.int32))
    score = signal.step((), obs)[1][0]
    key, draw_key = jax.random.split(d.key)
    new = sample.draw(logits_1xV, draw_key[None], sampling)[0]
    depth = jnp.full((1, 1), cfg.depth_K[draft.readout], jnp.int32)
    cache = caches.commit(d.cache, caches.New(kv, depth), s.slot + d.num)
    put = lambda xs, x: jax.lax.dynamic_update_index_in_dim(xs, x, d.num, 0)
    return _Drafts(
      d.num + 1,
      put(d.token_N, token),
      put(d.draft_N, new),
      jax.lax.dynamic_update_slice_in_dim(
        d.state_1xNxD, h_1x1xD, d.num, axis=1
      ),
      put(d.q_NxV, sample.log_weights(logits_1xV, sampling)[0]),
      cache,
      score >= draft.threshold,
      key,
      d.layers_run + len(kv),
    )

  zeros_N = jnp.zeros(num, jnp.int32)
  start = _Drafts(
    jnp.int32(0),
    zeros_N,
    zeros_N,
    jnp.zeros((1, num, cfg.dim), cfg.dtype),
    jnp.zeros((num, cfg.vocab_size)),
    s.cache,
    jnp.bool_(True),
    key,
    jnp.int32(0),
  )
  most = jnp.minimum(num, left)
  return jax.lax.while_loop(lambda d: (d.num < most) & d.goes_on, one, start)


def _check(bound, draft, s: _State, drafts: _Drafts):
  """The full model's log-weights after each input, and its deep K/V."""
  num, last = draft.length, len(bound.cfg.cells) - 1
  n_N = jnp.arange(num)
  mask = layers.causal_mask(num)
  look = lambda layer: (mask, caches.past(drafts.cache, layer, None, num))
  h_1xNxD, kv = _in_branch(
    drafts.num > 0,
    functools.partial(
      spans.span,
      bound,
      drafts.token_N[None],
      (s.position + n_N)[None],
      look,
      start=draft.readout,
      stop=last,
      state_BxTxD=drafts.state_1xNxD,
    ),
  )
  n_NxD = bound.normed(last, h_1xNxD)[0]
  return readout.logits(n_NxD, bound.unembedding()), kv, len(kv)


def _accept(logits_NxV, drafts: _Drafts, key, sampling):
  """Tokens [N] that stand, how many they are, and how many drafts were right.

  The first wrong draft is replaced by a draw from what the full model has more
  of; the drafts after it are dropped.
  """
  accept_key, draw_key = jax.random.split(key)
  num = len(logits_NxV)
  p_NxV = jax.nn.softmax(sample.log_weights(logits_NxV, sampling))
  q_NxV = jax.nn.softmax(drafts.q_NxV)
  pick = lambda x_NxV: jnp.take_along_axis(x_NxV, drafts.draft_N[:, None], 1)[
    :, 0
  ]
  chance_N = jax.random.uniform(accept_key, (num,))
  right_N = chance_N * pick(q_NxV) < pick(p_NxV)
  right_N &= jnp.arange(num) < drafts.num
  num_right = jnp.where(right_N.all(), num, right_N.argmin())
  wrong = jnp.minimum(num_right, num - 1)
  more_V = jnp.maximum(p_NxV[wrong] - q_NxV[wrong], 0.0)
  instead = jax.random.categorical(draw_key, jnp.log(more_V))
  replaced_N = drafts.draft_N.at[wrong].set(instead.astype(jnp.int32))
  all_right = num_right == drafts.num
  return (
    jnp.where(all_right, drafts.draft_N, replaced_N),
    jnp.where(all_right, num_right, num_right + 1),
    num_right,
  )


def speculate(
  model: Any,
  variables: Any,
  prompts: Sequence[Sequence[int]],
  draft: Draft,
  *,
  options: loop.Options,
) -> tuple[list[loop.Generated], Tally]:
  """The full model's tokens, drafted by its own early layers.

  Greedy tokens are those of `generate` without exits; sampled ones have the
  same distribution. Prompts are continued one after another.

  Args:
    model, variables, prompts, options: see `generate`; prompt tokens go through
      all layers.
    draft: how drafts are made.

  Raises:
    ConfigError: the model cannot draft like this.
  """
  texts, total = [], NOTHING
  last = len(model.cfg.cells) - 1
  for number, prompt in enumerate(prompts):
    new = []
    for tokens, tally in stream(
      model, variables, prompt, draft, options=options, number=number
    ):
      new.extend(tokens)
      total = add(total, tally)
    tokens = np.asarray([*prompt, *new], np.int32)
    texts.append(loop.Generated(tokens, np.full(len(new), last, np.int32)))
  return texts, total


def add(a: Tally, b: Tally) -> Tally:
  """Both together."""
  return Tally(*(x + y for x, y in zip(a, b)))


def stream(
  model: Any,
  variables: Any,
  prompt: Sequence[int],
  draft: Draft,
  *,
  options: loop.Options,
  number: int = 0,
) -> Iterator[tuple[np.ndarray, Tally]]:
  """New tokens of one prompt, and what they took, as programs end.

  Args:
    model, variables, prompt, draft, options: see `speculate`.
    number: of the prompt; each has its own random numbers.
  """
  draft.check(model.cfg)
  params = variables['params']
  cache, slot = loop.prefilled(model, params, [prompt], None, options)
  position = len(prompt) - 1
  end, eos_id = loop.end(np.int32(len(prompt)), options), loop.eos(options)
  key = jax.random.fold_in(jax.random.key(options.seed), number)
  token, done, room = prompt[-1], False, options.chunk + draft.length
  while not done:
    if slot + room > cache.capacity:
      cache = caches.grow(cache, slot + room)
    s = rounds(
      params,
      cache,
      np.int32(token),
      np.int32(position),
      np.int32(slot),
      key,
      end,
      eos_id,
      num=options.chunk,
      model=model,
      draft=draft,
      sampling=options.sampling,
    )
    cache, key = s.cache, s.key
    token, position, slot, done, found_N, count, tally = jax.device_get(
      (s.token, s.position, s.slot, s.done, s.found_N, s.count, s.tally)
    )
    yield found_N[:count], Tally(*map(int, tally))
