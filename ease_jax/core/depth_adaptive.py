"""dat, dat_multinomial: the readout where a token should stop.

Two of the halting mechanisms of the Depth-Adaptive Transformer (1910.10073,
section 3.2), which learn the readout that an oracle names. `dat` is the
token-specific geometric-like one, a chain of decisions: at readout n a token
stops with probability chi_n if it has come so far. `dat_multinomial` plans
ahead: one softmax over all readouts, of the state at the first. A token stops
at the first readout up to which the plan holds more than a threshold (at 0.5
its median; the paper takes the likeliest).

The third one, for whole sequences, looks at the mean of all states, later ones
included. Its causal form, the mean of those up to a token, would have to be
handed from token to token beside the keys and values, and is not here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.core import signals, state_gate
from ease_jax.core.gates import Foretold, Gate, GateShape, GridLesson
from ease_jax.core.observations import Observation
from ease_jax.core.signals import Signal

NAME = 'dat'
MULTINOMIAL = 'dat_multinomial'
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


def multinomial_loss(lesson: GridLesson) -> jax.Array:
  """Cross-entropy of the plan and the oracle's readout, [B, T] nats."""
  best_BxT = jnp.argmax(worth(lesson), axis=0)
  log_p_BxTxK = jax.nn.log_softmax(lesson.output_KxBxTxO[0])
  return -jnp.take_along_axis(log_p_BxTxK, best_BxT[..., None], -1)[..., 0]


def multinomial_foretold(lesson: GridLesson) -> Foretold:
  """What the plan holds up to each readout."""
  p_BxTxK = jax.nn.softmax(lesson.output_KxBxTxO[0])
  reached_KxBxT = jnp.moveaxis(jnp.cumsum(p_BxTxK, -1), -1, 0)
  best_1xBxT = jnp.argmax(worth(lesson), axis=0)[None]
  k_Kx1x1 = jnp.arange(len(lesson.depth_K))[:, None, None]
  return Foretold(
    'the oracle stops here or before',
    reached_KxBxT,
    (best_1xBxT <= k_Kx1x1).astype(jnp.float32),
    jnp.ones(reached_KxBxT.shape, bool),
  )


def _init(key: jax.Array, shape: GateShape) -> state_gate.Parameters:
  return state_gate.init_map(key, shape, shape.readouts)


def _apply(
  params: state_gate.Parameters, h: jax.Array, k: int | jax.Array
) -> jax.Array:
  """The plan's logits; nobody looks at them after the first readout."""
  if isinstance(k, int) and k > 0:
    return jnp.zeros((*h.shape[:-1], len(params['bias'])))
  return state_gate.apply_map(params, h)


def _flops(shape: GateShape, k: int) -> float:
  return state_gate.map_flops(shape, shape.readouts) if k == 0 else 0.0


class _Plan(NamedTuple):
  """What a token means to do."""

  seen: jax.Array  # readouts so far, [B, T] int32
  p: jax.Array  # where to stop, [B, T, K]


def _no_plan(shape: tuple[int, ...], readouts: int) -> _Plan:
  return _Plan(jnp.zeros(shape, jnp.int32), jnp.zeros((*shape, readouts)))


def _follow(plan: _Plan, obs: Observation) -> tuple[_Plan, jax.Array]:
  """What the plan holds up to here."""
  made = jax.nn.softmax(obs.gate[MULTINOMIAL])
  seen = plan.seen[..., None]
  p = jnp.where(seen == 0, made, plan.p)
  number = jax.lax.broadcasted_iota(jnp.int32, p.shape, p.ndim - 1)
  mass = jnp.where(number <= seen, p, 0).sum(-1)
  mass = jnp.minimum(mass, 1.0)  # rounding may leave it just above
  return _Plan(plan.seen + 1, p), mass


signals.register(
  Signal(
    MULTINOMIAL,
    _follow,
    state_gate.LOOKS_AT,
    low=0.0,
    high=1.0,
    sweep=(0.2, 0.3, 0.4, 0.5, 0.6, 0.8),
    init=_no_plan,
    remembers=True,
    gate=Gate(
      _init,
      _apply,
      _flops,
      grid_loss=multinomial_loss,
      foretells=multinomial_foretold,
    ),
  )
)
