"""Which drafts stand: speculative sampling (Leviathan et al. 2211.17192)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.decode import sampling as sample


class Proposed(NamedTuple):
  """Drafts of one round.

  Attributes:
    num: how many they are; the rest is empty.
    draft_N: the tokens.
    q_NxV: log-weights that they were drawn from.
  """

  num: jax.Array
  draft_N: jax.Array
  q_NxV: jax.Array


class Verdict(NamedTuple):
  """Which tokens of a round stand.

  Attributes:
    token_N: they, then anything.
    num: how many they are.
    num_right: how many drafts were right.
  """

  token_N: jax.Array
  num: jax.Array
  num_right: jax.Array


def accept(
  logits_NxV: jax.Array,
  drafts: Proposed,
  key: jax.Array,
  sampling: sample.Sampling,
) -> Verdict:
  """Algorithm 1 of 2211.17192.

  The first wrong draft is replaced by a draw from what the full model has more
  of; the drafts after it are dropped.
  """
  accept_key, draw_key = jax.random.split(key)
  num = len(logits_NxV)
  p_NxV = jax.nn.softmax(sample.log_weights(logits_NxV, sampling))
  q_NxV = jax.nn.softmax(drafts.q_NxV)

  def of_draft(x_NxV: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_NxV, drafts.draft_N[:, None], 1)[:, 0]

  chance_N = jax.random.uniform(accept_key, (num,))
  right_N = chance_N * of_draft(q_NxV) < of_draft(p_NxV)
  right_N &= jnp.arange(num) < drafts.num
  num_right = jnp.where(right_N.all(), num, right_N.argmin())

  wrong = jnp.minimum(num_right, num - 1)
  more_V = jnp.maximum(p_NxV[wrong] - q_NxV[wrong], 0.0)
  instead = jax.random.categorical(draw_key, jnp.log(more_V))
  replaced_N = drafts.draft_N.at[wrong].set(instead.astype(jnp.int32))

  all_right = num_right == drafts.num
  return Verdict(
    jnp.where(all_right, drafts.draft_N, replaced_N),
    jnp.where(all_right, num_right, num_right + 1),
    num_right,
  )
