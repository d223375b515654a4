"""ouro: a distribution over where to stop, and exits at its quantiles.

The gate of Ouro (2510.25741, section 3). At readout t a token stops with
probability lambda_t = sigmoid(gate) if it has come so far; p(t) is the whole
distribution. Its first objective is the loss that p expects, less beta times
p's entropy; where p weighs the losses of the readouts (`loss.gate_weighs`), it
is the model's objective as well. Its second, for a model that no longer learns,
asks whether the last step still helped. A token stops at the first readout up
to which p holds more than a threshold.
"""

import jax
import jax.numpy as jnp
import optax

from ease_jax.core import signals, state_gate
from ease_jax.core.gates import Foretold, GridLesson
from ease_jax.core.observations import Observation
from ease_jax.core.signals import Signal

NAME = 'ouro'
OBJECTIVES = ('expected_loss', 'improvement')
SLOPE = 50.0  # of the second objective's targets, per nat
LEAST_GAIN = 0.005  # nats that count as an improvement


def expected_loss(lesson: GridLesson) -> jax.Array:
  """sum_t p(t) nll_t - beta H(p), [B, T] nats (eq. 4; beta: gate_entropy)."""
  log_p_KxBxT = state_gate.log_exit(lesson.output_KxBxTxO[..., 0])
  p_KxBxT = jnp.exp(log_p_KxBxT)
  mean_nll_BxT = (p_KxBxT * lesson.nll_KxBxT).sum(0)
  entropy_BxT = -(p_KxBxT * log_p_KxBxT).sum(0)
  return mean_nll_BxT - lesson.settings['gate_entropy'] * entropy_BxT


def improvement(lesson: GridLesson) -> jax.Array:
  """Going on is right where the last step helped, [B, T] nats (eq. 7).

  The first readout has no step before it, and its gate keeps what it learned
  by the first objective; the last one decides nothing.
  """
  logit_KxBxT = lesson.output_KxBxTxO[..., 0]
  each_KxBxT = optax.sigmoid_binary_cross_entropy(
    -logit_KxBxT[1:-1], _helped(lesson)[1:-1]
  )
  return each_KxBxT.sum(0) / max(len(each_KxBxT), 1)


def _helped(lesson: GridLesson) -> jax.Array:
  """How much the step to each readout helped, [K, B, T] in [0, 1]."""
  nll_KxBxT = lesson.nll_KxBxT
  before_KxBxT = jnp.concatenate([nll_KxBxT[:1], nll_KxBxT[:-1]])
  gained_KxBxT = jnp.maximum(before_KxBxT - nll_KxBxT, 0)
  return jax.nn.sigmoid(SLOPE * (gained_KxBxT - LEAST_GAIN))


def loss(lesson: GridLesson) -> jax.Array:
  """The objective that `loss.gate_objective` names, [B, T] nats."""
  objectives = {'expected_loss': expected_loss, 'improvement': improvement}
  return objectives[lesson.settings['gate_objective']](lesson)


def foretold(lesson: GridLesson) -> Foretold | None:
  """The second objective's targets; the first has none, only a mean."""
  if lesson.settings['gate_objective'] != 'improvement':
    return None
  helped_KxBxT = _helped(lesson)
  k_Kx1x1 = jnp.arange(len(lesson.depth_K))[:, None, None]
  return Foretold(
    'the step to here helped',
    jax.nn.sigmoid(-lesson.output_KxBxTxO[..., 0]),
    helped_KxBxT,
    jnp.broadcast_to(k_Kx1x1 > 0, helped_KxBxT.shape),
  )


def _nobody_stopped(shape: tuple[int, ...], readouts: int) -> jax.Array:
  del readouts
  return jnp.ones(shape)


def _step(
  still_there: jax.Array, obs: Observation
) -> tuple[jax.Array, jax.Array]:
  """The distribution's mass up to here, after what is left of it beyond."""
  stops = jax.nn.sigmoid(state_gate.output(obs, NAME))
  still_there = still_there * (1 - stops)
  return still_there, 1 - still_there


signals.register(
  Signal(
    NAME,
    _step,
    state_gate.LOOKS_AT,
    low=0.0,
    high=1.0,
    sweep=(0.2, 0.4, 0.5, 0.6, 0.8, 0.9),
    init=_nobody_stopped,
    remembers=True,
    gate=state_gate.gate(loss, foretold, weighs=True),
  )
)
