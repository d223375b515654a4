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
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ease_jax import grid, halting, layers, readout, signals
from ease_jax.models.body import evaluation_key

KV = tuple[jax.Array, jax.Array]
# look(layer, kv, done_BxT) -> the keys and values and the mask to attend by;
# layers are counted from 0 through all segments.
Look = Callable[[int, KV, jax.Array], tuple[KV, jax.Array]]


@dataclasses.dataclass(frozen=True)
class ExitSpec:
  """Signal and K/V policy of early exit (static); thresholds are arrays."""

  signal: str = 'max_prob'
  policy: str = 'copy_state'


class Walk(NamedTuple):
  """Where each token stopped and what its readout said there."""

  exit_BxT: jax.Array  # readout index, int32
  normed_BxTxD: jax.Array  # the answering readout's normed state
  observation: signals.Observation  # of the answering readout, each [B, T]


class _Tracker:
  """What a walk knows of its tokens so far; lives while it is traced."""

  def __init__(
      self, bound: Any, spec: ExitSpec, threshold_K: jax.Array,
      target_BxT: jax.Array, rotation: layers.Rotation, look: Look, skip: bool,
  ):  # pyformat: disable
    self.skip = skip and spec.policy != 'recompute'
    self.layers_run = jnp.int32(0)
    self.bound, self.spec, self.threshold_K = bound, spec, threshold_K
    self.target_BxT, self.rotation, self.look = target_BxT, rotation, look
    self.signal = signals.SIGNALS[spec.signal]
    self.memory = self.signal.init(target_BxT.shape)
    self.done_BxT = jnp.zeros(target_BxT.shape, bool)
    self.k, self.segment = 0, 0
    self.previous = None  # (state, normed state) of the readout before
    self.frozen_BxTxD: Any = None  # at the readout where a token exited
    self.answer: Walk | None = None
    self.latest: dict[str, KV] = {}  # by layer, for tokens that exited

  def through(self, i: int, block: layers.Block, h_BxTxD: jax.Array):
    """Runs a layer; see `body.Through`."""
    done_BxTx1 = self.done_BxT[..., None]
    if self.previous is not None and self.spec.policy != 'recompute':
      h_BxTxD = jnp.where(done_BxTx1, self.frozen_BxTxD, h_BxTxD)
    kv = block.kv(h_BxTxD, self.rotation)
    if self.spec.policy == 'latest':
      name = str(block.name)  # the same in every segment
      kv = jax.tree.map(
          lambda old, new: jnp.where(done_BxTx1[..., None], old, new),
          self.latest.get(name, kv), kv)
      self.latest[name] = kv
    layer = self.segment * self.bound.cfg.segment_depth + i
    kv, mask = self.look(layer, kv, self.done_BxT)
    run = lambda: block.attend(h_BxTxD, kv, mask, self.rotation)
    runs = ~self.done_BxT.all() if self.skip else True
    self.layers_run += runs
    return jax.lax.cond(runs, run, lambda: h_BxTxD) if self.skip else run()

  def read(self, r: int, h_BxTxD: jax.Array) -> None:
    """Reads a prediction; see `body.Read`."""
    del r
    k, done_BxT = self.k, self.done_BxT
    state = h_BxTxD, self.bound.normed(k, h_BxTxD)
    obs = observe(
        self.bound, state, self.previous, self.target_BxT, self.spec.signal)
    self.memory, score_BxT = self.signal.step(self.memory, obs)
    here = Walk(jnp.full(done_BxT.shape, k, jnp.int32), state[1], obs)
    if self.answer is None:
      self.answer, self.frozen_BxTxD = here, h_BxTxD
    # Until a token exits, its answer is the deepest readout so far.
    self.answer = _where(~done_BxT, here, self.answer)
    self.frozen_BxTxD = jnp.where(
        done_BxT[..., None], self.frozen_BxTxD, h_BxTxD)
    self.done_BxT |= grid.exits(score_BxT, self.threshold_K[k])
    self.previous, self.k = state, k + 1


def observe(
    bound: Any, state: Any, previous: Any, target_BxT: jax.Array, *names: str
) -> signals.Observation:
  """All that the named signals look at; see `readout.observe`."""
  obs = readout.observe(
      state, previous, target_BxT, bound.unembedding(), with_kl='kl' in names)
  if 'q_halt' not in names:
    return obs
  return obs._replace(halt=halting.score(bound.halt_logits(state[0])))


def walk(
    bound: Any,
    spec: ExitSpec,
    threshold_K: jax.Array,
    token_BxT: jax.Array,
    target_BxT: jax.Array,
    position_T: jax.Array,
    look: Look,
    *,
    skip: bool = False,
) -> tuple[Walk, jax.Array]:
  """Layer by layer; tokens that exited are frozen (2207.07061, 1910.10073).

  Args:
    bound: a bound body.
    spec: signal and policy.
    threshold_K: one per readout; the last is ignored.
    token_BxT: input tokens.
    target_BxT: true next tokens, for the loss statistics.
    position_T: absolute positions, the same in every row.
    look: see above.
    skip: do not run a layer that no token needs, except for its keys and
      values; `recompute` needs every layer.

  Returns:
    The walk, and how many layers were run (counted, not inferred).
  """
  x_BxTxD = bound.embed_tokens(token_BxT)
  rotation = layers.rotation(bound.cfg, position_T)
  at = _Tracker(bound, spec, threshold_K, target_BxT, rotation, look, skip)
  carry = bound.init_carry(x_BxTxD, position_T, evaluation_key())
  for at.segment in range(bound.cfg.segments):
    carry = bound.segment(x_BxTxD, carry, at.through, at.read)
  assert at.answer is not None  # the last layer is always a readout
  return at.answer, at.layers_run


def _where(mask_BxT: jax.Array, new: Walk, old: Walk) -> Walk:
  def pick(a, b):
    mask = mask_BxT.reshape(mask_BxT.shape + (1,) * (a.ndim - 2))
    return jnp.where(mask, a, b)

  return jax.tree.map(pick, new, old)


def _parallel_look(spec: ExitSpec, length: int) -> Look:
  causal = layers.causal_mask(length)
  self_only = jnp.eye(length, dtype=bool)[None]

  def look(layer, kv, done_BxT):
    del layer
    if spec.policy == 'drop':
      # A token always sees itself: the softmax of an exited one, whose
      # result is thrown away, would otherwise have nothing to look at.
      return kv, causal & (~done_BxT[:, None, :] | self_only)
    return kv, causal

  return look


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
    threshold_K: one per readout.
    model: a body (static).
    spec: signal and policy (static).
  """
  bound = model.bind({'params': params})
  length = batch['tokens'].shape[1]
  look = _parallel_look(spec, length)
  return walk(
      bound, spec, threshold_K, batch['tokens'], batch['targets'],
      jnp.arange(length), look)[0]  # pyformat: disable
