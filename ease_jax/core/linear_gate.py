"""What the linear gates share: one number from a state, and chains of them.

A gate looks at the state scaled to unit mean square, because the length of a
state grows with depth and one gate serves all readouts.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ease_jax.core import signals
from ease_jax.core.signals import Gate, GridLesson, Observation

Parameters = dict[str, jax.Array]

LOOKS_AT = frozenset({signals.STATE, signals.GATE})
EPS = 1e-6


def init(key: jax.Array, dim: int) -> Parameters:
  """Parameters of a linear map from D to one number."""
  del key
  return {'kernel': jnp.zeros((dim, 1)), 'bias': jnp.zeros(1)}


def apply(params: Parameters, h: jax.Array) -> jax.Array:
  """The number, [..., 1] float32."""
  h = h.astype(jnp.float32)
  mean_square = jnp.mean(h * h, axis=-1, keepdims=True)
  h = h * jax.lax.rsqrt(mean_square + EPS)
  flat_NxD = h.reshape(-1, h.shape[-1])
  output_Nx1 = flat_NxD @ params['kernel'] + params['bias'][None]
  return output_Nx1.reshape(*h.shape[:-1], 1)


def flops(dim: int) -> float:
  """FLOPs of one token: the mean square and the product."""
  return 4.0 * dim


def gate(grid_loss: Callable[[GridLesson], jax.Array]) -> Gate:
  """A linear gate that learns by a loss over all readouts."""
  return Gate(init, apply, flops, grid_loss=grid_loss)


def output(obs: Observation, name: str) -> jax.Array:
  """The number that the gate `name` gave, of an observation's shape."""
  return obs.gate[name][..., 0]


def log_exit(logit_KxBxT: jax.Array) -> jax.Array:
  """Log of the probability to stop at each readout and not before, [K, B, T].

  At each readout a token stops with probability sigmoid(logit) if it has come
  so far; at the last one it stops in any case.
  """
  log_stop_KxBxT = jax.nn.log_sigmoid(logit_KxBxT).at[-1].set(0.0)
  log_pass_KxBxT = jax.nn.log_sigmoid(-logit_KxBxT)
  log_reached_KxBxT = jnp.cumsum(log_pass_KxBxT, 0) - log_pass_KxBxT
  return log_stop_KxBxT + log_reached_KxBxT


def cross_entropy(logit: jax.Array, target: jax.Array) -> jax.Array:
  """Binary cross-entropy of sigmoid(logit) and a target in [0, 1], nats."""
  log_p = jax.nn.log_sigmoid(logit)
  log_not_p = jax.nn.log_sigmoid(-logit)
  return -(target * log_p + (1 - target) * log_not_p)
