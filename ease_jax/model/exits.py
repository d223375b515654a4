"""One walk through the layers with exits, in parallel or with a cache.

A token that exits keeps its state; what deeper layers see of it is the K/V
policy's choice. `walk` is written once: the parallel exit-consistent pass and
token-by-token decoding differ only in `look`, which says which keys and
values a layer may look at, and give the same exits and states.

  recompute   deeper layers see the true keys and values, as if the token had
              not exited (they must be computed later, and are charged)
  copy_state  each layer's own W_K, W_V applied to the frozen exit state
  drop        deeper layers do not see the token at all
  latest      where layers run again in every segment: the last keys and values
              that the layer computed for the token, from its last segment; a
              layer that never ran does as under copy_state

`copy_kv`, deeper layers see the keys and values of the exit layer as they are,
is no choice but a control: no W_K of another layer made them (2207.07061 lost
40 % of its quality by it). Only `masked_pass` knows it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.config import KV_POLICIES, ConfigError
from ease_jax.core import grid, signals
from ease_jax.model import halting, layers, readout
from ease_jax.model.body import evaluation_key

CONTROL = 'copy_kv'

# look(layer, done_BxT) -> what tokens may see of each other, [B or 1, T, T],
# and of a cache; layers are counted from 0 through all segments.
Look = Callable[[int, jax.Array], tuple[jax.Array, tuple[layers.Past, ...]]]
# head(k, state, previous, memory, done_BxT) -> memory, who may stop [B, T], and
# what the readout answers, a tree of [B, T, ...]. `state` is a state and its
# normed one; `memory` is the signal's.
Head = Callable[..., tuple[Any, jax.Array, Any]]


@dataclasses.dataclass(frozen=True)
class ExitSpec:
  """Signal and K/V policy of early exit (static); thresholds are arrays."""

  signal: str = 'max_prob'
  policy: str = 'copy_state'

  def __post_init__(self):
    if self.signal not in signals.SIGNALS:
      raise ConfigError(
        f'exit signal {self.signal!r} is unknown; use one of '
        f'{tuple(signals.SIGNALS)}'
      )
    if self.policy not in (*KV_POLICIES, CONTROL):
      raise ConfigError(
        f'K/V policy {self.policy!r} is unknown; use one of {KV_POLICIES}'
      )


class Walk(NamedTuple):
  """Where each token stopped and what its readout said there."""

  exit_BxT: jax.Array  # readout index, int32
  normed_BxTxD: jax.Array  # the answering readout's normed state
  observation: signals.Observation  # of the answering readout, each [B, T]


class Walked(NamedTuple):
  """What a walk through all segments comes to."""

  exit_BxT: jax.Array  # readout index, int32
  answer: Any  # of that readout's head
  kv: tuple[layers.KV, ...]  # of all layers, as the policy has them
  layers_run: jax.Array  # counted, not inferred
  fills_run: jax.Array  # layers of which only keys and values were made


class _Tracker:
  """What a walk knows of its tokens so far; lives while it is traced."""

  def __init__(
    self,
    bound: Any,
    spec: ExitSpec,
    rotation: layers.Rotation,
    look: Look,
    head: Head,
    done_BxT: jax.Array,
    skip: bool,
  ):
    self.skip = skip and spec.policy != 'recompute'
    self.bound, self.spec, self.rotation = bound, spec, rotation
    self.look, self.head, self.done_BxT = look, head, done_BxT
    self.memory = signals.SIGNALS[spec.signal].init(done_BxT.shape)
    self.k, self.segment = 0, 0
    self.layers_run = self.fills_run = jnp.int32(0)
    self.previous = None  # (state, normed state) of the readout before
    self.frozen_BxTxD: Any = None  # at the readout where a token exited
    self.exit_BxT = jnp.zeros(done_BxT.shape, jnp.int32)
    self.answer: Any = None
    self.latest: dict[str, layers.KV] = {}  # by layer, for tokens that exited
    self.kv: list[layers.KV] = []

  def through(self, i: int, block: layers.Block, h_BxTxD: jax.Array):
    """Runs a layer; see `body.Through`."""
    done_BxTx1, policy = self.done_BxT[..., None], self.spec.policy
    if self.previous is not None and policy != 'recompute':
      h_BxTxD = jnp.where(done_BxTx1, self.frozen_BxTxD, h_BxTxD)
    name = str(block.name)  # the same in every segment
    kept = self.latest.get(name) if policy == 'latest' else None
    if policy == CONTROL and self.kv:
      kept = self.kv[-1]

    def run():
      kv = block.kv(h_BxTxD, self.rotation)
      if kept is not None:
        keep = lambda old, new: jnp.where(done_BxTx1[..., None], old, new)
        kv = jax.tree.map(keep, kept, kv)
      layer = self.segment * self.bound.cfg.segment_depth + i
      mask, past = self.look(layer, self.done_BxT)
      out = block.attend(h_BxTxD, kv, mask, self.rotation, past=past)
      return out, kv, jnp.int32(1)

    def fill():
      """Nobody needs the layer, at most its keys and values."""
      if kept is not None:
        return h_BxTxD, kept, jnp.int32(0)
      kv = block.kv(h_BxTxD, self.rotation)
      if policy == 'drop':
        kv = jax.tree.map(jnp.zeros_like, kv)
      return h_BxTxD, kv, jnp.int32(0)

    h_BxTxD, kv, ran = (
      jax.lax.cond(self.done_BxT.all(), fill, run) if self.skip else run()
    )
    self.latest[name] = kv
    self.kv.append(kv)
    self.layers_run += ran
    if kept is None and policy != 'drop':
      self.fills_run += 1 - ran
    return h_BxTxD

  def read(self, r: int, h_BxTxD: jax.Array) -> jax.Array:
    """Reads a prediction; see `body.Read`."""
    del r
    k, done_BxT = self.k, self.done_BxT
    state = h_BxTxD, self.bound.normed(k, h_BxTxD)
    self.memory, stops_BxT, here = self.head(
      k, state, self.previous, self.memory, done_BxT
    )
    if self.answer is None:
      self.answer, self.frozen_BxTxD = here, h_BxTxD
    # Until a token exits, its answer is the deepest readout so far.
    self.exit_BxT = jnp.where(done_BxT, self.exit_BxT, k)
    self.answer = _where(~done_BxT, here, self.answer)
    self.frozen_BxTxD = jnp.where(
      done_BxT[..., None], self.frozen_BxTxD, h_BxTxD
    )
    self.done_BxT |= stops_BxT
    self.previous, self.k = state, k + 1
    return h_BxTxD


def observe(
  bound: Any, state: Any, previous: Any, target_BxT: jax.Array, *names: str
) -> signals.Observation:
  """All that the named signals look at; see `readout.observe`."""
  obs = readout.observe(
    state, previous, target_BxT, bound.unembedding(), with_kl='kl' in names
  )
  if 'q_halt' not in names:
    return obs
  return obs._replace(halt=halting.score(bound.halt_logits(state[0])))


def walk(
  bound: Any,
  spec: ExitSpec,
  token_BxT: jax.Array,
  position_BxT: jax.Array,
  look: Look,
  head: Head,
  *,
  done_BxT: jax.Array | None = None,
  skip: bool = False,
) -> Walked:
  """Layer by layer; tokens that exited are frozen (2207.07061, 1910.10073).

  Args:
    bound: a bound body.
    spec: signal and policy.
    token_BxT: input tokens.
    position_BxT: absolute positions; B may be 1.
    look, head: see above.
    done_BxT: tokens that want nothing; None = no such ones.
    skip: do not run a layer that no token needs, except for its keys and
      values; `recompute` needs every layer.
  """
  if done_BxT is None:
    done_BxT = jnp.zeros(token_BxT.shape, bool)
  x_BxTxD = bound.embed_tokens(token_BxT)
  rotation = layers.rotation(bound.cfg, position_BxT)
  at = _Tracker(bound, spec, rotation, look, head, done_BxT, skip)
  carry = bound.init_carry(x_BxTxD, position_BxT, evaluation_key())
  for at.segment in range(bound.cfg.segments):
    carry = bound.segment(x_BxTxD, carry, at.through, at.read)
  return Walked(
    at.exit_BxT, at.answer, tuple(at.kv), at.layers_run, at.fills_run
  )


def _where(mask_BxT: jax.Array, new: Any, old: Any) -> Any:
  def pick(a, b):
    mask = mask_BxT.reshape(mask_BxT.shape + (1,) * (a.ndim - 2))
    return jnp.where(mask, a, b)

  return jax.tree.map(pick, new, old)


def block_mask(spec: ExitSpec, done_BxT: jax.Array) -> jax.Array:
  """What the tokens of one block see of each other, [B or 1, T, T]."""
  length = done_BxT.shape[1]
  causal = layers.causal_mask(length)
  if spec.policy != 'drop':
    return causal
  # A token always sees itself: the softmax of an exited one, whose result is
  # thrown away, would otherwise have nothing to look at.
  self_only = jnp.eye(length, dtype=bool)[None]
  return causal & (~done_BxT[:, None, :] | self_only)


@functools.partial(jax.jit, static_argnames=('model', 'spec'))
def masked_pass(
  params: Any,
  batch: dict[str, jax.Array],
  threshold_K: jax.Array,
  *,
  model: Any,
  spec: ExitSpec,
) -> Walk:
  """Exit-consistent teacher-forced pass: equal to decoding with a cache.

  Args:
    params: the model's parameters.
    batch: tokens and targets, [B, T].
    threshold_K: one per readout; the last is ignored.
    model: a body (static).
    spec: signal and policy (static).
  """
  bound, signal = model.bind({'params': params}), signals.SIGNALS[spec.signal]

  def head(k, state, previous, memory, done_BxT):
    obs = observe(bound, state, previous, batch['targets'], spec.signal)
    memory, score_BxT = signal.step(memory, obs)
    return memory, grid.exits(score_BxT, threshold_K[k]), (state[1], obs)

  out = walk(
    bound,
    spec,
    batch['tokens'],
    layers.positions(batch['tokens'].shape[1]),
    lambda layer, done_BxT: (block_mask(spec, done_BxT), ()),
    head,
  )
  return Walk(out.exit_BxT, *out.answer)
