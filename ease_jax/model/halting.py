"""Q-learning of when to stop, as HRM does it (2506.21734, sec. 2.4).

Two values for every token and segment: of stopping here and of going on.
Stopping is worth whether the prediction is right; going on is worth the best
of the next segment. All functions are elementwise.
"""

import jax
import jax.numpy as jnp


def targets(
  correct: jax.Array, next_q: jax.Array, is_last: jax.Array
) -> jax.Array:
  """What the two values should be, [..., 2] in [0, 1], no gradient.

  Args:
    correct: [...] bool, the prediction here is right.
    next_q: [..., 2] logits of the two values one segment later.
    is_last: whether this is the last segment allowed, so that one would have
      to stop after the next.
  """
  stop, on = next_q[..., 0], next_q[..., 1]
  best_next = jnp.where(is_last, stop, jnp.maximum(stop, on))
  both = jnp.stack([correct.astype(jnp.float32), jax.nn.sigmoid(best_next)], -1)
  return jax.lax.stop_gradient(both)


def loss(q: jax.Array, target: jax.Array) -> jax.Array:
  """Binary cross-entropy of both values, summed over them; [...] nats."""
  log_p, log_not_p = jax.nn.log_sigmoid(q), jax.nn.log_sigmoid(-q)
  return -(target * log_p + (1 - target) * log_not_p).sum(-1)


def score(q: jax.Array) -> jax.Array:
  """The exit signal: above 0, stopping is worth more than going on."""
  return q[..., 0] - q[..., 1]


def halts(
  q: jax.Array,
  number: jax.Array,
  key: jax.Array,
  exploration: float,
  segments: int,
) -> jax.Array:
  """Which tokens end their training after this segment, [...] bool.

  Those whose value of stopping is the higher one; with chance `exploration`,
  not before a segment drawn uniformly from 2 to `segments`. After the last
  segment there is nothing to end.

  Args:
    q: [..., 2] logits.
    number: of the segment, from 1.
    key: of the exploration.
    exploration: the chance.
    segments: S.
  """
  chance_key, least_key = jax.random.split(key)
  shape = q.shape[:-1]
  explores = jax.random.uniform(chance_key, shape) < exploration
  least = jax.random.randint(least_key, shape, 2, max(segments, 2) + 1)
  return (score(q) > 0) & (number >= jnp.where(explores, least, 1))
