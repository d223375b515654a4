"""calm: does this readout already say what the last one will say?

The early-exit classifier of CALM (2207.07061, section 4.1): one linear layer
for all readouts, each an independent binary cross-entropy against agreement
with the last readout's answer. Its geometric-like objective (table D.1) is
`dat` with `loss.gate_oracle=agreement`.
"""

import jax
import jax.numpy as jnp

from ease_jax.core import signals, state_gate
from ease_jax.core.gates import GridLesson
from ease_jax.core.observations import Observation
from ease_jax.core.signals import Memory, Signal

NAME = 'calm'


def loss(lesson: GridLesson) -> jax.Array:
  """Mean cross-entropy over the readouts before the last, [B, T] nats."""
  logit_KxBxT = lesson.output_KxBxTxO[..., 0]
  agrees_KxBxT = lesson.agrees_KxBxT.astype(jnp.float32)
  each_KxBxT = state_gate.cross_entropy(logit_KxBxT, agrees_KxBxT)
  return each_KxBxT[:-1].mean(0)


def _step(memory: Memory, obs: Observation) -> tuple[Memory, jax.Array]:
  return memory, jax.nn.sigmoid(state_gate.output(obs, NAME))


signals.register(
  Signal(
    NAME,
    _step,
    state_gate.LOOKS_AT,
    low=0.0,
    high=1.0,
    sweep=(0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
    gate=state_gate.gate(loss),
  )
)
