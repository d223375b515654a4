"""dat: the readout where a token should stop, as a chain of decisions.

The token-specific geometric-like halting of the Depth-Adaptive Transformer
(1910.10073, section 3.2): at readout n a token stops with probability chi_n if
it has come so far, and the chain learns the readout that an oracle names.
"""

import jax
import jax.numpy as jnp

from ease_jax.core import signals, state_gate
from ease_jax.core.gates import Foretold, GridLesson

NAME = 'dat'
ORACLES = ('likelihood', 'correctness', 'agreement')


def worth(lesson: GridLesson) -> jax.Array:
  """What the oracle thinks of each readout, [K, B, T]; the largest wins.

  likelihood is the log-probability of the true token (eq. 8), correctness
  whether it is the most likely one (eq. 10), agreement whether the last
  readout would answer the same (CALM). `gate_smoothing` is the width sigma of
  a kernel exp(-|t - t'|^2 / sigma) over neighbouring tokens (eq. 9), 0 for the
  token alone; `gate_price` is lambda, what every further cell must bring.
  """
  settings = lesson.settings
  merits = {
    'likelihood': -lesson.nll_KxBxT,
    'correctness': lesson.correct_KxBxT.astype(jnp.float32),
    'agreement': lesson.agrees_KxBxT.astype(jnp.float32),
  }
  merit_KxBxT = merits[settings['gate_oracle']]

  if settings['gate_smoothing']:
    place_T = jnp.arange(merit_KxBxT.shape[-1])
    distance_TxT = (place_T[:, None] - place_T[None]) ** 2
    kernel_TxT = jnp.exp(-distance_TxT / settings['gate_smoothing'])
    merit_KxBxT = (merit_KxBxT * lesson.mask_BxT[None]) @ kernel_TxT

  depth_Kx1x1 = jnp.asarray(lesson.depth_K, jnp.float32)[:, None, None]
  return merit_KxBxT - settings['gate_price'] * depth_Kx1x1


def loss(lesson: GridLesson) -> jax.Array:
  """Cross-entropy of the chain and the oracle's readout, [B, T] nats."""
  best_BxT = jnp.argmax(worth(lesson), axis=0)
  log_exit_KxBxT = state_gate.log_exit(lesson.output_KxBxTxO[..., 0])
  return -jnp.take_along_axis(log_exit_KxBxT, best_BxT[None], 0)[0]


def foretold(lesson: GridLesson) -> Foretold:
  """The probability to stop, of a token that has come so far."""
  k_Kx1x1 = jnp.arange(len(lesson.depth_K))[:, None, None]
  best_1xBxT = jnp.argmax(worth(lesson), axis=0)[None]
  return Foretold(
    'the oracle stops here, if not before',
    jax.nn.sigmoid(lesson.output_KxBxTxO[..., 0]),
    (best_1xBxT == k_Kx1x1).astype(jnp.float32),
    best_1xBxT >= k_Kx1x1,
  )


signals.register(
  state_gate.deciding(
    NAME, loss, foretold, sweep=(0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
  )
)
