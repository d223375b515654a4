"""q_halt: Q-learning of when to stop, as HRM does it (2506.21734, sec. 2.4).

Two values for every token and segment: of stopping here and of going on.
Stopping is worth whether the prediction is right; going on is worth the best
of the next segment. All functions are elementwise.
"""

import math

import jax
import jax.numpy as jnp
import optax

from ease_jax.core import signals
from ease_jax.core.gates import (
  Foretold,
  Gate,
  GateShape,
  GridLesson,
  Learned,
  Lesson,
)
from ease_jax.core.observations import Observation
from ease_jax.core.signals import Signal

FIRST_VALUE = -5.0  # logit of both values: at first nothing is worth stopping
NAME = 'q_halt'

Parameters = dict[str, jax.Array]


def init(key: jax.Array, shape: GateShape) -> Parameters:
  """Parameters of the gate, a linear map from D to two values."""
  del key
  return {'kernel': jnp.zeros((shape.dim, 2)), 'bias': jnp.full(2, FIRST_VALUE)}


def values(params: Parameters, h: jax.Array, k: int | jax.Array) -> jax.Array:
  """Logits of the values of stopping and of going on, [..., 2] float32.

  They are the same map in every segment, so that more may follow.
  """
  del k
  flat_NxD = h.reshape(-1, h.shape[-1]).astype(jnp.float32)
  q_Nx2 = flat_NxD @ params['kernel'] + params['bias'][None]
  return q_Nx2.reshape(*h.shape[:-1], 2)


def flops(shape: GateShape, k: int) -> float:
  """FLOPs of both values of one token."""
  del k
  return 2.0 * shape.dim * 2


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
  stop = next_q[..., 0]
  go_on = next_q[..., 1]
  best_next = jnp.where(is_last, stop, jnp.maximum(stop, go_on))
  both = jnp.stack([correct.astype(jnp.float32), jax.nn.sigmoid(best_next)], -1)
  return jax.lax.stop_gradient(both)


def loss(q: jax.Array, target: jax.Array) -> jax.Array:
  """Binary cross-entropy of both values, summed over them; [...] nats."""
  return optax.sigmoid_binary_cross_entropy(q, target).sum(-1)


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


def _learn(lesson: Lesson) -> Learned:
  q_BxTx2 = lesson.output_R[-1]
  last = len(lesson.output_R) - 1
  obs = lesson.observe(last)

  target_BxTx2 = targets(
    obs.argmax == lesson.target_BxT,
    lesson.next_R[-1],
    lesson.number >= lesson.segments,
  )
  halts_BxT = halts(
    q_BxTx2, lesson.number, lesson.key, lesson.exploration, lesson.segments
  )
  return Learned(loss(q_BxTx2, target_BxTx2), halts_BxT)


def foretold(lesson: GridLesson) -> Foretold:
  """The value of stopping."""
  correct_KxBxT = lesson.correct_KxBxT
  return Foretold(
    'the answer here is right',
    jax.nn.sigmoid(lesson.output_KxBxTxO[..., 0]),
    correct_KxBxT.astype(jnp.float32),
    jnp.ones_like(correct_KxBxT),
  )


def _step(memory, obs: Observation):
  return memory, score(obs.gate[NAME])


signals.register(
  Signal(
    NAME,
    _step,
    frozenset({signals.STATE, signals.GATE}),
    low=-math.inf,
    high=math.inf,
    sweep=(-2.0, -1.0, 0.0, 1.0, 2.0),
    gate=Gate(
      init,
      values,
      flops,
      loss=_learn,
      foretells=foretold,
      ahead=True,
      ends_only=True,
    ),
  )
)
