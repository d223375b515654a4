"""shortlist: confidence among a few tokens, where the vocabulary is large.

SpecEE (2504.08850) asks deeper layers about the tokens of a draft model alone.
Here the first readout names the candidates, its likeliest tokens, and later
ones are asked for their logits: C products with a state in the place of V.
"""

import jax
import jax.numpy as jnp

from ease_jax.core import signals
from ease_jax.core.observations import Observation
from ease_jax.core.signals import Signal

NAME = 'shortlist'
CANDIDATES = 8  # SpecEE: 4


def of(name: str, candidates: int) -> Signal:
  """A signal that looks at so many candidates.

  Its score is the share of the likeliest one among them, which is at least its
  probability among all tokens.

  Args:
    name: of the signal.
    candidates: C.
  """

  def nobody(shape: tuple[int, ...], readouts: int) -> jax.Array:
    del readouts
    return jnp.zeros((*shape, candidates), jnp.int32)

  def step(
    id_BxTxC: jax.Array, obs: Observation
  ) -> tuple[jax.Array, jax.Array]:
    del id_BxTxC  # the observation has the same ones
    named = obs.named[name]
    return named.id, jax.nn.softmax(named.logit).max(-1)

  return Signal(
    name,
    step,
    frozenset({signals.STATE}),
    low=0.0,
    high=1.0,
    sweep=signals.MAX_PROB.sweep,
    init=nobody,
    remembers=True,
    candidates=candidates,
  )


signals.register(of(NAME, CANDIDATES))
