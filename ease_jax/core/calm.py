"""calm: does this readout already say what the last one will say?

The early-exit classifier of CALM (2207.07061, section 4.1): at each readout an
independent binary cross-entropy against agreement with the last readout's
answer. (The paper's linear layer is the same for all readouts.) Its
geometric-like objective (table D.1) is `dat` with `loss.gate_oracle=agreement`.
"""

import jax
import jax.numpy as jnp
import optax

from ease_jax.core import signals, state_gate
from ease_jax.core.gates import Foretold, GridLesson

NAME = 'calm'


def loss(lesson: GridLesson) -> jax.Array:
  """Mean cross-entropy over the readouts before the last, [B, T] nats."""
  logit_KxBxT = lesson.output_KxBxTxO[..., 0]
  agrees_KxBxT = lesson.agrees_KxBxT.astype(jnp.float32)
  each_KxBxT = optax.sigmoid_binary_cross_entropy(logit_KxBxT, agrees_KxBxT)
  return each_KxBxT[:-1].mean(0)


def foretold(lesson: GridLesson) -> Foretold:
  """The probability that the loss asks for."""
  agrees_KxBxT = lesson.agrees_KxBxT
  return Foretold(
    'the last readout answers the same',
    jax.nn.sigmoid(lesson.output_KxBxTxO[..., 0]),
    agrees_KxBxT.astype(jnp.float32),
    jnp.ones_like(agrees_KxBxT),
  )


signals.register(
  state_gate.deciding(
    NAME, loss, foretold, sweep=(0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
  )
)
