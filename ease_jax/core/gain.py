"""gain: what would going on to the end still bring?

A regression by least squares on the states: how many nats the last readout is
better than this one, per share of the model's cells that lie between them. A
token goes on while that is more than its price, and the threshold is minus
the price of a full pass in nats.
"""

import math

import jax
import jax.numpy as jnp

from ease_jax.core import linear_gate, signals
from ease_jax.core.signals import GridLesson, Memory, Observation, Signal

NAME = 'gain'


def loss(lesson: GridLesson) -> jax.Array:
  """Mean squared error over the readouts before the last, [B, T] nats^2."""
  depth_K = jnp.asarray(lesson.depth_K, jnp.float32)
  left_Kx1x1 = (1 - depth_K / lesson.depth_K[-1])[:, None, None]
  gained_KxBxT = lesson.nll_KxBxT - lesson.nll_KxBxT[-1:]
  predicted_KxBxT = left_Kx1x1 * lesson.output_KxBxTxO[..., 0]
  return ((predicted_KxBxT - gained_KxBxT)[:-1] ** 2).mean(0)


def _step(memory: Memory, obs: Observation) -> tuple[Memory, jax.Array]:
  return memory, -linear_gate.output(obs, NAME)


signals.register(
  Signal(
    NAME,
    _step,
    linear_gate.LOOKS_AT,
    low=-math.inf,
    high=math.inf,
    sweep=(-1.0, -0.5, -0.3, -0.2, -0.1, 0.0),
    gate=linear_gate.gate(loss),
  )
)
