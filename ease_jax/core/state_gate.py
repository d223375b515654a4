"""What gates that look at states share: one number, and chains of them.

Each readout has a gate of its own, which looks at the state at unit size. It is
linear, or has one hidden layer.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ease_jax.core import signals
from ease_jax.core.gates import Foretold, Gate, GateShape, GridLesson
from ease_jax.core.observations import Observation
from ease_jax.core.scaling import unit_size
from ease_jax.core.signals import Memory, Signal

Parameters = dict[str, jax.Array]

LOOKS_AT = frozenset({signals.STATE, signals.GATE})


def init(key: jax.Array, shape: GateShape) -> Parameters:
  """Parameters of a map from D to one number, one for each readout.

  The last readout always answers: nobody asks it, and it has none.

  Args:
    key: of the random ones.
    shape: without a hidden layer the map is linear.
  """
  key_K = jax.random.split(key, max(shape.readouts - 1, 1))
  return jax.vmap(functools.partial(init_map, shape=shape))(key_K)


def init_map(key: jax.Array, shape: GateShape, outputs: int = 1) -> Parameters:
  """Parameters of one map from D to so many numbers."""
  dim, hidden, *_ = shape
  bias = jnp.zeros(outputs)
  if not hidden:
    return {'kernel': jnp.zeros((dim, outputs)), 'bias': bias}
  in_key, out_key = jax.random.split(key)
  normal = jax.random.normal
  return {
    'hidden_kernel': normal(in_key, (dim, hidden)) * dim**-0.5,
    'hidden_bias': jnp.zeros(hidden),
    # Small, so that at first it says nearly nothing; 0 would stop gradients.
    'kernel': normal(out_key, (hidden, outputs)) * 0.1 * hidden**-0.5,
    'bias': bias,
  }


def apply(params_K: Parameters, h: jax.Array, k: int | jax.Array) -> jax.Array:
  """The number at readout k, [..., 1] float32."""
  last = len(params_K['bias']) - 1
  own = {name: x_K[jnp.minimum(k, last)] for name, x_K in params_K.items()}
  return apply_map(own, h)


def apply_map(params: Parameters, h: jax.Array) -> jax.Array:
  """What a map makes of states, [..., outputs] float32."""
  x = unit_size(h).reshape(-1, h.shape[-1])

  if 'hidden_kernel' in params:
    x = x @ params['hidden_kernel'] + params['hidden_bias'][None]
    x = jax.nn.gelu(x)
  output_NxO = x @ params['kernel'] + params['bias'][None]
  return output_NxO.reshape(*h.shape[:-1], -1)


def flops(shape: GateShape, k: int) -> float:
  """FLOPs of one token: the mean square and the products."""
  del k
  return map_flops(shape)


def map_flops(shape: GateShape, outputs: int = 1) -> float:
  """FLOPs of one map to so many numbers."""
  dim, hidden, *_ = shape
  products = dim * outputs
  if hidden:
    products = dim * hidden + hidden * outputs
  return 2.0 * dim + 2.0 * products


def gate(
  grid_loss: Callable[[GridLesson], jax.Array],
  foretells: Callable[[GridLesson], Foretold | None],
  *,
  compares: bool = False,
  weighs: bool = False,
) -> Gate:
  """A gate on states that learns by a loss over all readouts."""
  return Gate(
    init,
    apply,
    flops,
    grid_loss=grid_loss,
    foretells=foretells,
    compares=compares,
    weighs=weighs,
  )


def output(obs: Observation, name: str) -> jax.Array:
  """The number that the gate `name` gave, of an observation's shape."""
  return obs.gate[name][..., 0]


def deciding(
  name: str,
  grid_loss: Callable[[GridLesson], jax.Array],
  foretells: Callable[[GridLesson], Foretold | None],
  sweep: tuple[float, ...],
) -> Signal:
  """A signal whose score is the probability sigmoid(output) of a gate.

  Args:
    name: as configs and results call it.
    grid_loss: what the gate learns from all readouts.
    foretells: what the probability is of.
    sweep: thresholds that are tried unless a config says otherwise.
  """

  def step(memory: Memory, obs: Observation) -> tuple[Memory, jax.Array]:
    return memory, jax.nn.sigmoid(output(obs, name))

  return Signal(
    name,
    step,
    LOOKS_AT,
    low=0.0,
    high=1.0,
    sweep=sweep,
    gate=gate(grid_loss, foretells),
  )


def log_exit(logit_KxBxT: jax.Array) -> jax.Array:
  """Log of the probability to stop at each readout and not before, [K, B, T].

  At each readout a token stops with probability sigmoid(logit) if it has come
  so far; at the last one it stops in any case.
  """
  log_stop_KxBxT = jax.nn.log_sigmoid(logit_KxBxT).at[-1].set(0.0)
  log_pass_KxBxT = jax.nn.log_sigmoid(-logit_KxBxT)
  log_reached_KxBxT = jnp.cumsum(log_pass_KxBxT, 0) - log_pass_KxBxT
  return log_stop_KxBxT + log_reached_KxBxT
