"""frequent: confidence among the most frequent tokens of a text.

Where the vocabulary is large, asking costs heads. The logits of some tokens,
always the same ones, say nearly as much of how sure a readout is, and cost C
products with its state in the place of V. Which tokens those are is counted in
the training text (`model.frequent_tokens`, `train.fit_tokens`).
"""

import jax

from ease_jax.core import signals
from ease_jax.core.observations import Observation
from ease_jax.core.signals import Memory, Signal

NAME = 'frequent'


def _share(memory: Memory, obs: Observation) -> tuple[Memory, jax.Array]:
  """Of the likeliest one among them."""
  return memory, jax.nn.softmax(obs.named[NAME].logit).max(-1)


signals.register(
  Signal(
    NAME,
    _share,
    frozenset({signals.STATE}),
    low=0.0,
    high=1.0,
    sweep=signals.MAX_PROB.sweep,
    listed=True,
  )
)
