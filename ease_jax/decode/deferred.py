"""`recompute` with a bound: layers of tokens that stopped, made up later.

A token that exits leaves its deeper keys and values undone, and its state
behind. When a later token of its row goes deeper, it is taken along, so that
what is looked back at are always the true keys and values (the deferred
computation of FREE, Bae et al. 2310.05424, and EE-LLM, Chen et al. 2312.04916).
The last `WINDOW` tokens may be behind; the oldest drags all of them through
before it leaves (`evaluate.compute_of_exits` charges that).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.core import costs
from ease_jax.decode import cache as caches
from ease_jax.decode import spans
from ease_jax.decode.heads import Asking
from ease_jax.model import layers

WINDOW = costs.MAX_WAITING  # P: tokens that may be behind


class Window(NamedTuple):
  """The last P tokens of each row, the oldest first."""

  token_BxP: jax.Array
  state_BxPxD: jax.Array  # at the last readout that they reached
  reached_BxP: jax.Array  # readouts behind them; K = nothing is missing


def empty_window(model: Any, batch_size: int) -> Window:
  """Of tokens that miss nothing."""
  cfg, shape = model.cfg, (batch_size, WINDOW)
  return Window(
    jnp.zeros(shape, jnp.int32),
    jnp.zeros((*shape, cfg.dim), cfg.dtype),
    jnp.full(shape, len(cfg.cells), jnp.int32),
  )


class Result(NamedTuple):
  """What came of one more token in every row."""

  exit_B: jax.Array
  logits_BxV: jax.Array
  window: Window
  new: caches.New  # of the window and the new token
  layers_run: jax.Array  # counted by the program


def walk(
  bound: Any,
  cache: caches.Cache,
  window: Window,
  token_B: jax.Array,
  position_B: jax.Array,
  done_B: jax.Array,
  head: Asking,
) -> Result:
  """One token for every row; the group between two readouts is the unit.

  A token takes all older ones of its window along, so that none has ever
  reached less far than a newer one: what a token sees in the cache is older.

  Args:
    bound: a bound body whose states can be gone on from.
    cache: ends before the new tokens.
    window: of the tokens before.
    token_B, position_B: the new tokens.
    done_B: rows that want nothing.
    head: which exits.
  """
  cfg, num = bound.cfg, len(bound.cfg.cells)
  token_BxN = jnp.concatenate([window.token_BxP, token_B[:, None]], 1)
  ago_N = jnp.arange(WINDOW, -1, -1)
  position_BxN = jnp.maximum(position_B[:, None] - ago_N[None], 0)
  pad = ((0, 0), (0, 1))
  state_BxNxD = jnp.pad(window.state_BxPxD, (*pad, (0, 0)))
  reached_BxN = jnp.pad(window.reached_BxP, pad)
  drags_B = ~done_B & (window.reached_BxP[:, 0] < num)
  wants_B, exit_B = ~done_B, jnp.zeros(done_B.shape, jnp.int32)
  memory, previous = head.init(done_B[:, None].shape), None
  answer = jnp.zeros((len(token_B), 1, cfg.vocab_size))
  kv, ran, layers_run = [], [], jnp.int32(0)
  for k in range(num):
    goes_BxN = (wants_B | drags_B)[:, None] & (reached_BxN <= k)
    group = _Group(bound, cache, k, token_BxN, position_BxN, goes_BxN)
    state_BxNxD, new, count = group.run(state_BxNxD)
    reached_BxN = jnp.where(goes_BxN, k + 1, reached_BxN)
    kv.extend(new)
    ran.extend([goes_BxN] * len(new))
    layers_run += count
    h_Bx1xD = state_BxNxD[:, -1:]
    state = h_Bx1xD, bound.normed(k, h_Bx1xD)
    memory, stops_Bx1, logits_Bx1xV = head(
      k, state, previous, memory, ~wants_B[:, None]
    )
    previous = state
    exit_B = jnp.where(wants_B, k, exit_B)
    answer = jnp.where(wants_B[:, None, None], logits_Bx1xV, answer)
    wants_B &= ~stops_Bx1[:, 0]
  window = Window(token_BxN[:, 1:], state_BxNxD[:, 1:], reached_BxN[:, 1:])
  depth_BxN = jnp.asarray((0, *cfg.depth_K), jnp.int32)[reached_BxN]
  new = caches.New(dict(enumerate(kv)), depth_BxN, jnp.stack(ran))
  return Result(exit_B, answer[:, 0], window, new, layers_run)


class _Group:
  """The layers up to readout k, for those tokens that want them."""

  def __init__(self, bound, cache, k, token_BxN, position_BxN, goes_BxN):
    self.bound, self.cache, self.k = bound, cache, k
    self.token_BxN, self.position_BxN = token_BxN, position_BxN
    self.goes_BxN = goes_BxN
    depth_K = (0, *bound.cfg.depth_K)
    self.layers = range(depth_K[k], depth_K[k + 1])

  def run(self, state_BxNxD):
    """All of the window, only the new token, or nothing."""
    behind, goes = self.goes_BxN[:, :-1].any(), self.goes_BxN.any()
    fewer = lambda x: jax.lax.cond(goes, self._newest, self._nothing, x)
    return jax.lax.cond(behind, self._all, fewer, state_BxNxD)

  def _nothing(self, state_BxNxD):
    cfg, (B, N, _) = self.bound.cfg, state_BxNxD.shape
    zeros = jnp.zeros((B, N, cfg.num_kv_heads, cfg.head_dim), cfg.dtype)
    return state_BxNxD, [(zeros, zeros) for _ in self.layers], jnp.int32(0)

  def _all(self, state_BxNxD, last=slice(None)):
    goes_BxT = self.goes_BxN[:, last]
    length = goes_BxT.shape[1]
    mask = layers.causal_mask(length) & goes_BxT[:, None, :]
    live_B = goes_BxT.any(1)
    look = lambda layer: (mask, caches.past(self.cache, layer, live_B, length))
    state_BxTxD = state_BxNxD[:, last]
    out_BxTxD, kv = spans.span(
      self.bound,
      self.token_BxN[:, last],
      self.position_BxN[:, last],
      look,
      start=self.k - 1 if self.k else None,
      stop=self.k,
      state_BxTxD=state_BxTxD,
    )
    state_BxTxD = jnp.where(goes_BxT[..., None], out_BxTxD, state_BxTxD)
    return state_BxTxD, [kv[i] for i in self.layers], jnp.int32(len(kv))

  def _newest(self, state_BxNxD):
    state_Bx1xD, kv, count = self._all(state_BxNxD, slice(-1, None))
    behind = state_BxNxD.shape[1] - 1
    pad = lambda x: jnp.pad(x, ((0, 0), (behind, 0), (0, 0), (0, 0)))
    state_BxNxD = jnp.concatenate([state_BxNxD[:, :-1], state_Bx1xD], 1)
    return state_BxNxD, jax.tree.map(pad, kv), count
