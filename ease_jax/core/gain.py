"""gain: what would going on to the end still bring?

The loss that a token will have saved at the last readout is mostly luck: its
true token is one draw. Were the last readout's distribution p_K right, the
expected saving is KL(p_K || p_k), and that is what the gate learns to foresee
from the state at readout k, by a Poisson regression per share of the cells
that lie between. A token goes on while that is more than its price.
"""

import math

import jax
import jax.numpy as jnp

from ease_jax.core import signals, state_gate
from ease_jax.core.gates import Foretold, GridLesson
from ease_jax.core.observations import Observation
from ease_jax.core.signals import Memory, Signal

NAME = 'gain'


def loss(lesson: GridLesson) -> jax.Array:
  """Poisson deviance over the readouts before the last, [B, T] nats.

  With r_k the expected nats per full pass, exp of the output, and s_k the
  share of cells behind readout k: s_k r_k - KL log r_k, which is lowest on
  average where s_k r_k is the mean of KL.
  """
  assert lesson.kl_KxBxT is not None
  log_rate_KxBxT = lesson.output_KxBxTxO[..., 0]
  expected_KxBxT = _left(lesson) * jnp.exp(log_rate_KxBxT)
  each_KxBxT = expected_KxBxT - lesson.kl_KxBxT * log_rate_KxBxT
  return each_KxBxT[:-1].mean(0)


def foretold(lesson: GridLesson) -> Foretold:
  """The divergence; what the last readout saves has the same mean."""
  nll_KxBxT = lesson.nll_KxBxT
  return Foretold(
    'nats that the last readout saves',
    _left(lesson) * jnp.exp(lesson.output_KxBxTxO[..., 0]),
    nll_KxBxT - nll_KxBxT[-1:],
    jnp.ones(nll_KxBxT.shape, bool),
  )


def _left(lesson: GridLesson) -> jax.Array:
  """Share of the cells behind each readout, [K, 1, 1]."""
  depth_K = jnp.asarray(lesson.depth_K, jnp.float32)
  return (1 - depth_K / lesson.depth_K[-1])[:, None, None]


def _step(memory: Memory, obs: Observation) -> tuple[Memory, jax.Array]:
  return memory, -state_gate.output(obs, NAME)


signals.register(
  Signal(
    NAME,
    _step,
    state_gate.LOOKS_AT,
    low=-math.inf,
    high=math.inf,
    sweep=(0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0),
    gate=state_gate.gate(loss, foretold, compares=True),
  )
)
