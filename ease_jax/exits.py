"""One walk through the layers with exits, in parallel or with a cache.

A token that exits keeps its state; what deeper layers see of it is the K/V
policy's choice. `walk` is written once: the parallel exit-consistent pass and
token-by-token decoding differ only in `look`, which says which keys and
values a layer may look at, and give the same exits and states.

  recompute   deeper layers see the true keys and values, as if the token had
              not exited (they must be computed later, and are charged)
  copy_state  each layer's own W_K, W_V applied to the frozen exit state
  drop        deeper layers do not see the token at all
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ease_jax import grid, layers, readout, signals

KV = tuple[jax.Array, jax.Array]
# look(layer, kv, done_BxT) -> the keys and values and the mask to attend by.
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


def walk(
    bound: Any,
    spec: ExitSpec,
    threshold_K: jax.Array,
    token_BxT: jax.Array,
    target_BxT: jax.Array,
    position_T: jax.Array,
    look: Look,
) -> Walk:
  """Runs every layer; tokens that exited are frozen (ALGORITHMS of CALM, DAT).

  Args:
    bound: a bound body.
    spec: signal and policy.
    threshold_K: one per readout; the last is ignored.
    token_BxT: input tokens.
    target_BxT: true next tokens, for the loss statistics.
    position_T: absolute positions, the same in every row.
    look: see above.
  """
  cfg, signal = bound.cfg, signals.SIGNALS[spec.signal]
  h_BxTxD = full_BxTxD = bound.embed_tokens(token_BxT)
  w_VxD, rotation = bound.unembedding(), layers.rotation(cfg, position_T)
  done_BxT = jnp.zeros(token_BxT.shape, bool)
  memory, previous, answer = signal.init(token_BxT.shape), None, None
  for number, block in enumerate(bound.blocks, 1):
    source = full_BxTxD if spec.policy == 'recompute' else h_BxTxD
    kv, mask = look(number - 1, block.kv(source, rotation), done_BxT)
    full_BxTxD = block.attend(source, kv, mask, rotation)
    h_BxTxD = jnp.where(done_BxT[..., None], h_BxTxD, full_BxTxD)
    if number not in cfg.readouts:
      continue
    k = cfg.readouts.index(number)
    state = h_BxTxD, bound.normed(k, h_BxTxD)
    obs = readout.observe(
        state, previous, target_BxT, w_VxD, with_kl=spec.signal == 'kl')
    memory, score_BxT = signal.step(memory, obs)
    hit_BxT = grid.exits(score_BxT, threshold_K[k])
    here = Walk(jnp.full(token_BxT.shape, k, jnp.int32), state[1], obs)
    if answer is None:
      answer = here
    # Until a token exits, its answer is the deepest readout so far.
    answer = _where(~done_BxT, here, answer)
    done_BxT, previous = done_BxT | hit_BxT, state
  assert answer is not None  # the last layer is always a readout
  return answer


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
      jnp.arange(length), look)  # pyformat: disable
