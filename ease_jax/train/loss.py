"""The grid loss: a weighted sum of cross-entropies over the readouts."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.core.weights import LossSpec
from ease_jax.model import halting, layers
from ease_jax.model.readout import linear_cross_entropy, observe


def _some_tokens(key, fraction, *arrays_N):
  """A random share of the tokens, the same ones from every array."""
  num = arrays_N[0].shape[0]
  keep_N = jax.random.permutation(key, num)[: math.ceil(fraction * num)]
  return tuple(x[keep_N] for x in arrays_N)


def readout_loss(n_NxD, w_VxD, target_N, mask_N, alive_N) -> jax.Array:
  """Mean cross-entropy over unmasked tokens, nats; halted ones count 0."""
  weight_N = mask_N * alive_N / jnp.maximum(mask_N.sum(), 1.0)
  return linear_cross_entropy(n_NxD, w_VxD, target_N, weight_N)


def _stops(bound: Any, spec: LossSpec, batch: Any) -> Any:
  """(r, h_BxTxD) -> [B, T] bool: which tokens stop there while training.

  Training on the exits that inference will take (Elbayad et al. 1910.10073,
  eq. 5, with confident tokens in place of sampled ones) teaches deeper layers
  to read frozen states; the other rows keep full depth as good as it was.
  """
  if spec.exit_threshold == 0:
    return None
  rows = len(batch['tokens'])
  row_Bx1 = (jnp.arange(rows) < round(spec.exit_rows * rows))[:, None]

  def stops(k: int, h_BxTxD: jax.Array) -> jax.Array:
    h_BxTxD = jax.lax.stop_gradient(h_BxTxD)
    obs = observe(
      (h_BxTxD, bound.normed(k, h_BxTxD)),
      None,
      batch['targets'],
      bound.unembedding(),
    )
    return (obs.max_prob >= spec.exit_threshold) & row_Bx1

  return stops


class Progress(NamedTuple):
  """What one segment of a batch hands to the next."""

  carry: Any  # of the body
  done_BxT: jax.Array  # exited (`exit_threshold`): frozen from here on
  frozen_BxTxD: jax.Array  # the state that these tokens keep
  alive_BxT: jax.Array  # not halted: still trained on, float32


class SegmentLosses(NamedTuple):
  readout_R: jax.Array  # of each readout of the segment; 0 if not supervised
  halt: jax.Array  # of the Q-learning


def first_progress(params: Any, model: Any, batch: Any) -> Progress:
  """Before the first segment, which makes its own first state."""
  bound = model.bind({'params': params})
  x_BxTxD, shape = bound.embed_tokens(batch['tokens']), batch['tokens'].shape
  carry = bound.init_carry(
    x_BxTxD, layers.positions(shape[1]), jax.random.key(0)
  )
  empty = jax.tree.map(jnp.zeros_like, carry)
  return Progress(
    empty, jnp.zeros(shape, bool), jnp.zeros_like(x_BxTxD), jnp.ones(shape)
  )


def segment_loss(
  params: Any,
  progress: Progress,
  number: jax.Array,
  weight_R: jax.Array,
  key: jax.Array,
  *,
  model: Any,
  spec: LossSpec,
  batch: Any,
) -> tuple[jax.Array, tuple[Progress, SegmentLosses]]:
  """Loss of one segment, nats; `grid_loss`, which see, is their sum.

  Args:
    params: the model's parameters.
    progress: what the segment before left behind.
    number: of the segment, from 0.
    weight_R: weight of each of its readouts.
    key: for dropout, first states, choice of tokens and exploration.
    model, spec, batch: see `grid_loss`.
  """
  drop_key, choice_key, carry_key, halt_key = jax.random.split(key, 4)
  bound = model.bind({'params': params}, rngs={'dropout': drop_key})
  deterministic, length = model.cfg.dropout == 0, batch['tokens'].shape[1]
  x_BxTxD = bound.embed_tokens(batch['tokens'])
  x_BxTxD = bound.drop(x_BxTxD, deterministic=deterministic)
  first = bound.init_carry(x_BxTxD, layers.positions(length), carry_key)
  carry = jax.tree.map(
    lambda a, b: jnp.where(number == 0, a, b), first, progress.carry
  )
  plain, stops = (
    bound.through(length, deterministic),
    _stops(bound, spec, batch),
  )
  done_BxT, frozen_BxTxD, state_R = *progress[1:3], []

  def through(i, block, h_BxTxD):
    if stops is not None:
      h_BxTxD = jnp.where(done_BxT[..., None], frozen_BxTxD, h_BxTxD)
    return plain(i, block, h_BxTxD)

  def read(r, h_BxTxD):
    nonlocal done_BxT, frozen_BxTxD
    answer_BxTxD = h_BxTxD
    if stops is not None:
      answer_BxTxD = jnp.where(done_BxT[..., None], frozen_BxTxD, h_BxTxD)
      done_BxT, frozen_BxTxD = done_BxT | stops(r, answer_BxTxD), answer_BxTxD
    state_R.append(answer_BxTxD)
    return h_BxTxD

  carry = bound.segment(x_BxTxD, carry, through, read)
  alive_BxT = progress.alive_BxT
  loss_R = _readout_losses(
    bound, spec, state_R, weight_R, batch, alive_BxT, choice_key
  )
  total, halt = weight_R @ loss_R, jnp.float32(0)
  if spec.halt_weight:
    halt, halts_BxT = _halting(
      bound,
      spec,
      batch,
      x_BxTxD,
      carry,
      state_R[-1],
      alive_BxT,
      number,
      halt_key,
    )
    total += spec.halt_scale * halt
    alive_BxT = jnp.where(halts_BxT, 0.0, alive_BxT)
  progress = Progress(carry, done_BxT, frozen_BxTxD, alive_BxT)
  return total, (progress, SegmentLosses(loss_R, halt))


def _readout_losses(
  bound, spec, state_R, weight_R, batch, alive_BxT, key
) -> jax.Array:
  """Mean cross-entropy at each readout of a segment, [R].

  Readouts of weight 0 cost nothing: never weighted ones are not in the
  program, and ones that are off now are skipped when it runs.
  """
  loss_R, last = [], len(state_R) - 1
  w_VxD = bound.unembedding()
  for r, h_BxTxD in enumerate(state_R):
    weight_S = spec.weight_K[r :: len(state_R)]
    if not any(weight_S):
      loss_R.append(jnp.float32(0))
      continue
    n_NxD = bound.normed(r, h_BxTxD).reshape(-1, h_BxTxD.shape[-1])
    args = (
      n_NxD,
      *(x.reshape(-1) for x in (batch['targets'], batch['mask'], alive_BxT)),
    )
    if r < last and spec.token_fraction < 1:
      key, use_key = jax.random.split(key)
      args = _some_tokens(use_key, spec.token_fraction, *args)
    run = lambda n_NxD, *rest_N: readout_loss(n_NxD, w_VxD, *rest_N)
    is_final = spec.segments == 1 and r == last  # which no schedule turns off
    if all(weight_S) and (is_final or spec.schedule == 'constant'):
      loss_R.append(run(*args))
    else:
      loss_R.append(
        jax.lax.cond(weight_R[r] > 0, run, lambda *_: jnp.float32(0), *args)
      )
  return jnp.stack(loss_R)


def _halting(
  bound, spec, batch, x_BxTxD, carry, h_BxTxD, alive_BxT, number, key
) -> tuple[jax.Array, jax.Array]:
  """Loss of the Q-learning, and which tokens halt after this segment.

  The values of the next segment come from a second forward pass with the same
  parameters, as in the official code.
  """
  obs = observe(
    (h_BxTxD, bound.normed(0, h_BxTxD)),
    None,
    batch['targets'],
    bound.unembedding(),
  )
  next_q = []

  def read(r, h_BxTxD):
    next_q.append(bound.halt_logits(h_BxTxD))
    return h_BxTxD

  bound.segment(x_BxTxD, carry, bound.through(x_BxTxD.shape[1]), read)
  q = bound.halt_logits(h_BxTxD)
  target = halting.targets(
    obs.argmax == batch['targets'], next_q[-1], number + 1 >= spec.segments
  )
  loss_BxT = alive_BxT * batch['mask'] * halting.loss(q, target)
  loss = loss_BxT.sum() / jnp.maximum(batch['mask'].sum(), 1.0)
  halts_BxT = halting.halts(
    q, number + 1, key, spec.halt_exploration, spec.segments
  )
  return loss, halts_BxT


def segments(
  spec: LossSpec, step: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Number, readout weights and key of each segment of an update."""
  number_S = jnp.arange(spec.segments)
  weight_SxR = spec.weights_at(step).reshape(spec.segments, -1)
  key_S = jax.vmap(functools.partial(jax.random.fold_in, key))(number_S)
  return number_S, weight_SxR, key_S


def metrics(
  spec: LossSpec, losses: SegmentLosses, step: jax.Array
) -> dict[str, jax.Array]:
  """Scalars of an update from what its segments report, stacked [S, ...].

  loss, loss_final, weight_sum, loss of each supervised readout (`loss_k`,
  1-based), loss_halt where halting is learned.
  """
  loss_K, weight_K = losses.readout_R.reshape(-1), spec.weights_at(step)
  halt = spec.halt_scale * losses.halt.sum()
  named = {f'loss_{k + 1}': loss_K[k] for k, w in enumerate(spec.weight_K) if w}
  if spec.halt_weight:
    named['loss_halt'] = losses.halt.mean()
  return named | {
    'loss': weight_K @ loss_K + halt,
    'loss_final': loss_K[-1],
    'weight_sum': weight_K.sum(),
  }


def grid_loss(
  params: Any,
  model: Any,
  spec: LossSpec,
  batch: Any,
  step: jax.Array,
  key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """J = sum_k W_k(step) * mean cross-entropy at readout k, in nats.

  With all weight on the last readout this is a standard language model.
  Where tokens stop early (`exit_threshold`), a deeper readout's loss is that of
  the readout which answered. Gradients flow from one segment to the one
  before it among the last `carry_backprop` segments only.

  Args:
    params: the model's parameters.
    model: a body.
    spec: the loss.
    batch: tokens, targets int32 and mask float32, each [B, T].
    step: the update's number, from 0.
    key: see `segment_loss`.
  """
  part = functools.partial(segment_loss, model=model, spec=spec, batch=batch)

  def one(progress, x):
    joined = x[0] > spec.segments - model.cfg.carry_backprop
    progress = jax.tree.map(
      lambda z: jnp.where(joined, z, jax.lax.stop_gradient(z)), progress
    )
    loss, (progress, losses) = part(params, progress, *x)
    return progress, (loss, losses)

  first, xs = first_progress(params, model, batch), segments(spec, step, key)
  if spec.segments == 1:  # a plain program
    out = one(first, jax.tree.map(lambda x: x[0], xs))[1]
    loss_S, losses = jax.tree.map(lambda x: x[None], out)
  else:
    one = jax.checkpoint(one, prevent_cse=False)
    loss_S, losses = jax.lax.scan(one, first, xs)[1]
  return loss_S.sum(), metrics(spec, losses, step)


def grid_gradient(
  params: Any,
  model: Any,
  spec: LossSpec,
  batch: Any,
  step: jax.Array,
  key: jax.Array,
) -> tuple[Any, dict[str, jax.Array]]:
  """Gradient of `grid_loss`, and its metrics.

  Segments that no gradient joins are differentiated one by one inside the
  scan: memory does not grow with them, and nothing is computed twice.
  """
  if spec.segments == 1 or model.cfg.carry_backprop > 1:
    grad = jax.grad(grid_loss, has_aux=True)
    return grad(params, model, spec, batch, step, key)
  grad = jax.grad(
    functools.partial(segment_loss, model=model, spec=spec, batch=batch),
    has_aux=True,
  )

  def one(carry, x):
    progress, total = carry
    grads, (progress, losses) = grad(params, progress, *x)
    return (progress, jax.tree.map(jnp.add, total, grads)), losses

  zeros = jax.tree.map(jnp.zeros_like, params)
  start = first_progress(params, model, batch), zeros
  (_, grads), losses = jax.lax.scan(one, start, segments(spec, step, key))
  return grads, metrics(spec, losses, step)
