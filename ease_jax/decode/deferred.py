"""`recompute` with a bound: cells of tokens that stopped, made up later.

A token that exits leaves its deeper keys and values undone, and its streams
behind. When a later token of its row goes deeper, it is taken along, so that
what is looked back at are always the true keys and values (the deferred
computation of FREE, Bae et al. 2310.05424, and EE-LLM, Chen et al. 2312.04916).
The last `WINDOW` tokens may be behind; the oldest drags all of them through
before it leaves. `charges` has what comes of that.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.core.policies import ExitRule
from ease_jax.decode import cells, heads
from ease_jax.decode.cache import Cache, New
from ease_jax.model import Body
from ease_jax.model.attention import KV
from ease_jax.model.exits import Counts, Exits, before_exits, where
from ease_jax.model.sight import causal_mask
from ease_jax.model.walk import State, Travel, Walked, walk

WINDOW = 8  # P: tokens that may be behind


class Window(NamedTuple):
  """The last P tokens of each row, the oldest first.

  Attributes:
    state: all streams, [B, P, D], where each token was left.
    reached_BxP: how many readouts it is past; K = it misses nothing.
  """

  state: State
  reached_BxP: jax.Array


def empty_window(model: Body, batch_size: int) -> Window:
  """A window of tokens that miss nothing."""
  shape = batch_size, WINDOW
  token_BxP = jax.ShapeDtypeStruct(shape, jnp.int32)
  variables = jax.eval_shape(
    model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 2), jnp.int32)
  )
  streams = jax.eval_shape(
    lambda variables, token: model.bind(variables).start(token, token),
    variables,
    token_BxP,
  )
  state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), streams)
  return Window(state, jnp.full(shape, model.grid.num_readouts, jnp.int32))


def answer(
  bound: Body,
  cache: Cache,
  window: Window,
  token_B: jax.Array,
  position_B: jax.Array,
  done_B: jax.Array,
  rule: ExitRule,
  threshold_K: jax.Array,
) -> tuple[jax.Array, jax.Array, Window, New, Counts, jax.Array | None]:
  """One token for every row; the cells between two readouts are the unit.

  A token takes all older ones of its window along, so that none has ever
  reached less far than a newer one: what a token sees in the cache is older.

  Args:
    bound: a bound body.
    cache: ends before the new tokens.
    window: of the tokens before.
    token_B, position_B: the new tokens.
    done_B: rows that want nothing.
    rule: how tokens exit.
    threshold_K: one per readout, or [K, B, 1].

  Returns:
    exit_B, logits_BxV, the window after it, what is new to the cache (of the
    window and the new token), what was done, and how many tokens routers kept
    out of the cells that they were taken to, [B, L].
  """
  grid = bound.grid
  num = grid.num_readouts
  ago_N = jnp.arange(WINDOW, -1, -1)
  position_BxN = jnp.maximum(position_B[:, None] - ago_N[None], 0)

  newest = bound.start(token_B[:, None], position_B[:, None])
  state = jax.tree.map(_appended, window.state, newest)
  reached_BxN = jnp.pad(window.reached_BxP, ((0, 0), (0, 1)))
  drags_B = ~done_B & (window.reached_BxP[:, 0] < num)

  exits = heads.before(bound, rule, done_B[:, None])
  read = heads.speaking(bound, rule, threshold_K)
  kv: dict[int, KV] = {}
  ran = []
  seen = []

  for k in range(num):
    wants_B = ~exits.done_BxT[:, 0]
    goes_BxN = (wants_B | drags_B)[:, None] & (reached_BxN <= k)
    group = _Group(bound, cache, k, position_BxN, goes_BxN)
    state, group_kv, group_seen, count = group.run(state)
    reached_BxN = jnp.where(goes_BxN, k + 1, reached_BxN)

    for cell, own in zip(group.cells, group_kv, strict=True):
      kv[cell.number] = own
      ran.append(goes_BxN)
    seen.extend(group_seen)
    exits = _counted(exits, count)
    read_exits, _ = read(k, jax.tree.map(_newest, state), exits)
    assert read_exits is not None
    exits = read_exits

  tail = _through_coda(bound, cache, exits, position_B, done_B)
  walked = Walked(state, exits, (), (), (), ())
  logits_Bx1xV, counts = heads.answer_of(bound, walked, tail, done_B[:, None])
  window = Window(
    jax.tree.map(lambda x_BxNxD: x_BxNxD[:, 1:], state), reached_BxN[:, 1:]
  )
  new = _addition(kv, ran, seen, tail, done_B)
  return (
    exits.exit_BxT[:, 0],
    logits_Bx1xV[:, 0],
    window,
    new,
    counts,
    _passed(bound, new),
  )


def _passed(bound: Body, new: New) -> jax.Array | None:
  """Tokens whom nobody sees in a cell that they were taken to, [B, L]."""
  if not bound.grid.routed:
    return None
  assert new.ran_LxBxT is not None
  return (new.ran_LxBxT & ~new.seen_LxBxT).sum(2, dtype=jnp.int32).T


def _appended(before_BxPxD: jax.Array, newest_Bx1xD: jax.Array) -> jax.Array:
  return jnp.concatenate([before_BxPxD, newest_Bx1xD], 1)


def _newest(x_BxNxD: jax.Array) -> jax.Array:
  return x_BxNxD[:, -1:]


def _counted(exits: Exits, count: jax.Array) -> Exits:
  counts = exits.counts._replace(cells=exits.counts.cells + count)
  return exits._replace(counts=counts)


def _through_coda(
  bound: Body,
  cache: Cache,
  exits: Exits,
  position_B: jax.Array,
  done_B: jax.Array,
) -> Walked:
  """The coda of the new tokens, on the states that answer."""
  position_Bx1 = position_B[:, None]
  layer = cells.cached(bound, cache, position_Bx1, causal_mask(1), skip=True)
  return walk(
    bound,
    bound.grid.tail,
    exits.answer if bound.grid.coda else {},
    before_exits(done_B[:, None]),
    layer=layer,
    travel=Travel(position_Bx1),
  )


def _addition(
  kv: dict[int, KV],
  ran: list[jax.Array],
  seen: list[jax.Array],
  tail: Walked,
  done_B: jax.Array,
) -> New:
  """What is new to the cache, of the window and the new token."""
  behind = ran[0].shape[1] - 1
  newest_BxN = jnp.pad(~done_B[:, None], ((0, 0), (behind, 0)))

  for call, own in zip(tail.calls, tail.kv, strict=True):
    assert own is not None
    kv[call.cell.number] = _padded(own, behind)
    ran.append(newest_BxN)
    seen.append(newest_BxN)

  return New(kv, jnp.stack(seen), jnp.stack(ran))


def _padded(kv: KV, behind: int) -> KV:
  """Keys and values of the new token, with room for those before it."""
  room = (0, 0), (behind, 0), (0, 0), (0, 0)
  return jnp.pad(kv[0], room), jnp.pad(kv[1], room)


# Streams [B, N, D]; keys and values of each cell, [B, N, ...]; in which of the
# cells the tokens may be seen, [B, N]; how many cells were run.
Grouped = tuple[State, list[KV], list[jax.Array], jax.Array]


class _Group:
  """The cells up to readout k, for those tokens that want them."""

  def __init__(
    self,
    bound: Body,
    cache: Cache,
    k: int,
    position_BxN: jax.Array,
    goes_BxN: jax.Array,
  ):
    self.bound = bound
    self.cache = cache
    self.position_BxN = position_BxN
    self.goes_BxN = goes_BxN
    self.cells = bound.grid.between(k - 1 if k else None, k)

  def run(self, state: State) -> Grouped:
    """Runs all of the window, only the new token, or nothing."""
    behind = self.goes_BxN[:, :-1].any()
    goes = self.goes_BxN.any()

    def fewer(state: State) -> Grouped:
      return jax.lax.cond(goes, self._newest, self._nothing, state)

    return jax.lax.cond(behind, self._all, fewer, state)

  def _nothing(self, state: State) -> Grouped:
    cfg = self.bound.cfg
    shape = *self.goes_BxN.shape, cfg.num_kv_heads, cfg.head_dim
    zeros = jnp.zeros(shape, cfg.dtype)
    kv = [(zeros, zeros) for _ in self.cells]
    nobody_BxN = jnp.zeros(self.goes_BxN.shape, bool)
    return state, kv, [nobody_BxN for _ in self.cells], jnp.int32(0)

  def _all(self, state: State) -> Grouped:
    walked, seen = self._walk(state, slice(None))
    kv = [own for own in walked.kv if own is not None]
    return walked.state, kv, seen, _run(walked)

  def _newest(self, state: State) -> Grouped:
    behind = self.goes_BxN.shape[1] - 1
    last = slice(behind, None)
    walked, seen = self._walk(jax.tree.map(_newest, state), last)

    def replaced(old: jax.Array, new: jax.Array) -> jax.Array:
      return jnp.concatenate([old[:, :-1], new], 1)

    state = jax.tree.map(replaced, state, walked.state)
    kv = [_padded(own, behind) for own in walked.kv if own is not None]
    seen = [jnp.pad(here, ((0, 0), (behind, 0))) for here in seen]
    return state, kv, seen, _run(walked)

  def _walk(
    self, state: State, tokens: slice
  ) -> tuple[Walked, list[jax.Array]]:
    goes_BxT = self.goes_BxN[:, tokens]
    position_BxT = self.position_BxN[:, tokens]
    mask_BxTxT = causal_mask(goes_BxT.shape[1]) & goes_BxT[:, None, :]
    walked = walk(
      self.bound,
      self.cells,
      state,
      before_exits(~goes_BxT),
      layer=cells.cached(
        self.bound,
        self.cache,
        position_BxT,
        mask_BxTxT,
        skip=self.bound.grid.routed,  # or the group would not run at all
      ),
      travel=Travel(position_BxT),
    )
    seen = [
      goes_BxT if call.seen_BxT is None else goes_BxT & call.seen_BxT
      for call in walked.calls
    ]
    # Routers remember nothing of tokens that wait.
    state = where(goes_BxT, walked.state, state)
    return walked._replace(state=state), seen


def _run(walked: Walked) -> jax.Array:
  """Cells that were run, as the program counted them."""
  assert walked.exits is not None
  return walked.exits.counts.cells
