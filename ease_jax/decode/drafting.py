"""One readout drafts: the cells up to it, token by token."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.core.costs import CostModel
from ease_jax.core.grid import Cell
from ease_jax.core.signals import SIGNALS
from ease_jax.decode import cache as caches
from ease_jax.decode import cells
from ease_jax.decode import sampling as sample
from ease_jax.decode.adaptive import Way
from ease_jax.decode.cache import Cache, New
from ease_jax.decode.drafts import Choice
from ease_jax.model import Body, readout
from ease_jax.model.attention import KV
from ease_jax.model.sight import causal_mask
from ease_jax.model.walk import RUNNING, State, Travel, walk


class How(NamedTuple):
  """What is static in a round."""

  bound: Body
  draft: Way
  sampling: sample.Sampling
  prices: CostModel

  @property
  def readouts(self) -> tuple[int, ...]:
    """Those that may draft, C of them."""
    return self.draft.readouts(self.bound.grid)

  @property
  def spans(self) -> tuple[tuple[Cell, ...], ...]:
    """The cells up to each readout that may draft, and those behind all."""
    grid = self.bound.grid
    starts = (None, *self.readouts)
    stops = (*self.readouts, grid.num_readouts - 1)
    return tuple(map(grid.between, starts, stops))

  @property
  def coda_L(self) -> jax.Array:
    """Whether each cell is one of the coda, bool."""
    grid = self.bound.grid
    return jnp.arange(grid.num_cells) >= len(grid.cells)

  def reach(self, drafter: jax.Array) -> jax.Array:
    """Cells up to a readout that may draft."""
    reach_C = [self.bound.grid.reach_K[k] for k in self.readouts]
    return jnp.asarray(reach_C, jnp.int32)[drafter]


class Place(NamedTuple):
  """The last token, which is not in the cache yet; scalars."""

  token: jax.Array
  position: jax.Array
  slot: jax.Array


class Ran(NamedTuple):
  """What a span of cells made."""

  state: State
  kv: tuple[KV, ...]


def run_span(
  how: How,
  cache: Cache,
  span: Sequence[Cell],
  state: State,
  position_1xT: jax.Array,
  runs: jax.Array,
) -> tuple[State, dict[int, KV]]:
  """Some cells of one row; if they do not run, the state stays as it is.

  What reads the cache stands in a branch, also where it is always taken: XLA
  then writes to the cache in place; in one straight program it keeps a copy of
  all of it for the readers.

  Args:
    how: a round's model.
    cache: of the tokens before.
    span: neighbouring cells.
    state: before the first of them.
    position_1xT: of the tokens.
    runs: whether they run.

  Returns:
    The state, and keys and values by number of the cell, 0 if they do not run.
  """
  mask_1xTxT = causal_mask(position_1xT.shape[1])

  def run() -> Ran:
    layer = cells.cached(how.bound, cache, position_1xT, mask_1xTxT, skip=False)
    travel = Travel(position_1xT)
    walked = walk(how.bound, span, state, None, layer=layer, travel=travel)
    return Ran(walked.state, tuple(kv for kv in walked.kv if kv is not None))

  def stay() -> Ran:
    cfg = how.bound.cfg
    shape = *position_1xT.shape, cfg.num_kv_heads, cfg.head_dim
    nothing = jnp.zeros(shape, cfg.dtype)
    return Ran(state, ((nothing, nothing),) * len(span))

  ran = jax.lax.cond(runs, run, stay)
  numbers = [cell.number for cell in span]
  return ran.state, dict(zip(numbers, ran.kv, strict=True))


def run_coda(
  how: How,
  cache: Cache,
  state: State,
  position_1xT: jax.Array,
  runs: jax.Array,
) -> tuple[jax.Array, dict[int, KV]]:
  """The states as a head sees them, and what the coda's cells made.

  Args:
    how, cache, position_1xT, runs: as in `run_span`.
    state: behind a readout.
  """
  tail = how.bound.grid.tail
  if not tail:
    return state[RUNNING], {}
  state, kv = run_span(how, cache, tail, state, position_1xT, runs)
  return state[RUNNING], kv


class Drafts(NamedTuple):
  """Drafts of a round.

  Attributes:
    num: made; the rest is empty.
    token_N: inputs: the last token and all drafts but the newest.
    draft_N: outputs.
    state: the streams where they were read, [1, N, D].
    normed_CxNxD: states of all readouts up to there as their heads see them.
    q_NxV: log-weights that they were drawn from.
    score_N: how sure the readout was.
    cache: with what the drafting cells made.
    sure: by all scores so far.
    key: of the sampling.
  """

  num: jax.Array
  token_N: jax.Array
  draft_N: jax.Array
  state: State
  normed_CxNxD: jax.Array
  q_NxV: jax.Array
  score_N: jax.Array
  cache: Cache
  sure: jax.Array
  key: jax.Array


def make_drafts(
  how: How,
  cache: Cache,
  place: Place,
  choice: Choice,
  key: jax.Array,
  left: jax.Array,
) -> Drafts:
  """At least one draft, and no more than were chosen or may still come.

  Args:
    how: a round's model.
    cache: of the tokens before.
    place: of the last token.
    choice: of the round.
    key: of the sampling.
    left: tokens that may still come.
  """
  most = jnp.minimum(choice.length, left)

  def wanted(d: Drafts) -> jax.Array:
    return (d.num == 0) | (d.sure >= choice.least)

  def goes_on(d: Drafts) -> jax.Array:
    return (d.num < most) & wanted(d)

  def one_more(d: Drafts) -> Drafts:
    return _drafted(how, place, choice, d, wanted(d))

  start = _no_drafts(how, cache, key)
  return jax.lax.while_loop(goes_on, one_more, start)


def _no_drafts(how: How, cache: Cache, key: jax.Array) -> Drafts:
  bound = how.bound
  cfg = bound.cfg
  num = max(how.draft.lengths)
  token_1xN = jnp.zeros((1, num), jnp.int32)
  streams = jax.eval_shape(bound.start, token_1xN, token_1xN)
  return Drafts(
    jnp.int32(0),
    token_1xN[0],
    token_1xN[0],
    jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), streams),
    jnp.zeros((len(how.readouts), num, cfg.dim), cfg.dtype),
    jnp.zeros((num, cfg.vocab_size)),
    jnp.zeros(num),
    cache,
    jnp.float32(1),
    key,
  )


def _drafted(
  how: How, place: Place, choice: Choice, d: Drafts, always: jax.Array
) -> Drafts:
  """With one draft more."""
  bound, draft, sampling, _ = how
  token = jnp.where(d.num == 0, place.token, d.draft_N[d.num - 1])
  position_1x1 = (place.position + d.num)[None, None]
  state = bound.start(token[None, None], position_1x1)
  normed = []
  kv: dict[int, KV] = {}

  for c, (k, span) in enumerate(zip(how.readouts, how.spans)):
    runs = always & (c <= choice.drafter)
    state, new = run_span(how, d.cache, span, state, position_1x1, runs)
    h_1x1xD, behind = run_coda(how, d.cache, state, position_1x1, runs)
    normed.append(bound.normed(k, h_1x1xD)[0, 0])
    kv |= new | behind

  normed_CxD = jnp.stack(normed)
  logits_1xV = readout.logits(normed_CxD[choice.drafter][None], bound.head())
  obs = readout.statistics(logits_1xV, jnp.zeros(1, jnp.int32))
  _, score_1 = SIGNALS[draft.signal].step((), obs)
  key, draw_key = jax.random.split(d.key)
  newest = sample.draw(logits_1xV, draw_key[None], sampling)[0]

  number_L = jnp.arange(bound.grid.num_cells)
  ran_L = (number_L < how.reach(choice.drafter)) | how.coda_L
  seen_Lx1x1 = ran_L[:, None, None]
  cache = caches.commit(d.cache, New(kv, seen_Lx1x1), place.slot + d.num)

  def put(xs: jax.Array, x: jax.Array, axis: int = 0) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(xs, x, d.num, axis)

  return Drafts(
    d.num + 1,
    put(d.token_N, token),
    put(d.draft_N, newest),
    jax.tree.map(lambda xs, x: put(xs, x, 1), d.state, state),
    put(d.normed_CxNxD, normed_CxD, 1),
    put(d.q_NxV, sample.log_weights(logits_1xV, sampling)[0]),
    put(d.score_N, score_1[0]),
    cache,
    draft.sure(d.sure, score_1[0], choice),
    key,
  )
