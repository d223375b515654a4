"""The losses of a segment's readouts."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ease_jax.model import Body, adapters
from ease_jax.model.exits import Tree
from ease_jax.model.linear_loss import (
  Lesson,
  Owed,
  nothing_owed,
  owing_loss,
  paid,
)
from ease_jax.model.unembedding import Unembedding
from ease_jax.model.walk import Layer, State, Travel
from ease_jax.train.setting import Part, Setting
from ease_jax.train.targets import Prepared, some_tokens


def supervised(
  bound: Body,
  setting: Setting,
  state_R: tuple[State, ...],
  part: Part,
  counted_R: Sequence[jax.Array],
  key: jax.Array,
  layer: Layer,
  travel: Travel,
) -> tuple[jax.Array, jax.Array]:
  """Mean loss at each readout of a segment over unmasked tokens, [R] nats.

  Tokens count as much as `counted_R` says. Readouts of weight 0 cost nothing:
  they are not in the program, or skipped when it runs if a schedule turned
  them off.

  Returns:
    The losses, whose gradients flow to states; and 0, whose gradient is that of
    unembeddings by the weighted sum of the losses.
  """
  spec = setting.spec
  batch = setting.batch
  last = len(state_R) - 1
  loss_R = []

  @functools.cache  # one draw of the coda's dropout for each readout
  def normed(r: int) -> jax.Array:
    return bound.normed(r, bound.through_coda(state_R[r], layer, travel))

  ready = setting.prepared
  if spec.segments == 1:
    ready = setting.target.prepare(bound, batch, lambda: normed(last))
    ready = jax.lax.stop_gradient(ready)

  own_heads = len(adapters.head_names(bound.cfg, len(state_R)))
  w_VxD = bound.unembedding()
  owed = nothing_owed(w_VxD)  # by all readouts that share it
  of_own = jnp.float32(0)
  for r in range(len(state_R)):
    weight_S = [row[r] for row in spec.weight_SxR]
    if not any(weight_S):
      loss_R.append(jnp.float32(0))
      continue

    tokens = (normed(r), ready, batch['mask'], counted_R[r])
    tokens = jax.tree.map(_flat, tokens)
    if r < last and spec.token_fraction < 1:
      key, use_key = jax.random.split(key)
      tokens = some_tokens(use_key, spec.token_fraction, tokens)

    # Which of several segments this is, is known when the program runs.
    is_last: bool | jax.Array = r == last
    if is_last and spec.segments > 1:
      is_last = part.number == spec.segments - 1

    is_own = r < own_heads
    own_VxD = bound.unembedding(r)
    lesson = setting.target.lesson(w_VxD, is_last)
    run = functools.partial(_readout_loss, lesson, own_VxD, part.weight_R[r])
    before = nothing_owed(own_VxD) if is_own else owed
    # No schedule turns the last one off.
    if all(weight_S) and (is_last is True or spec.schedule == 'constant'):
      loss, after = run(before, *tokens)
    else:
      on = part.weight_R[r] > 0
      loss, after = jax.lax.cond(on, run, _nothing, before, *tokens)

    loss_R.append(loss)
    if is_own:
      of_own += paid(own_VxD, after)
    else:
      owed = after

  return jnp.stack(loss_R), of_own + paid(w_VxD, owed)


def _flat(x_BxTx: jax.Array) -> jax.Array:
  return x_BxTx.reshape(-1, *x_BxTx.shape[2:])


def _nothing(owed: Owed, *tokens: Tree) -> tuple[jax.Array, Owed]:
  del tokens
  return jnp.float32(0), owed


@jax.named_scope('loss')
def _readout_loss(
  lesson: Lesson,
  w_VxD: Unembedding,
  scale: jax.Array,
  owed: Owed,
  normed_NxD: jax.Array,
  prepared_N: Prepared,
  mask_N: jax.Array,
  counted_N: jax.Array,
) -> tuple[jax.Array, Owed]:
  weight_N = mask_N * counted_N / jnp.maximum(mask_N.sum(), 1.0)
  return owing_loss(
    lesson, normed_NxD, w_VxD, prepared_N, weight_N, scale, owed
  )
