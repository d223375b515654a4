"""Exit signals: one confidence per readout and token, higher means exit.

A signal is a pair (init, step) in the manner of an optax transformation:
`step(state, obs) -> (state, score)` sees the observations of one readout
after another, in float32 and per token, so no row and no position can
influence another one's score.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Observation(NamedTuple):
  """What a signal may look at, for each token of one readout, float32.

  On the first readout there is no previous one: `kl` is +inf and
  `state_cosine` -inf, which makes both signals' scores -inf there.
  """

  nll: jax.Array  # -log p(target)
  argmax: jax.Array  # most likely token, int32
  max_prob: jax.Array  # its probability
  margin: jax.Array  # its probability minus the second one's
  entropy: jax.Array  # of the distribution, in units of log V
  state_cosine: jax.Array  # of this and the previous readout's state
  kl: jax.Array  # KL(previous || this), nats
  halt: jax.Array  # value of stopping minus that of going on, where learned


def blank(shape: tuple[int, ...]) -> Observation:
  """Of a readout without a head and without one before it."""
  zeros, inf = jnp.zeros(shape), jnp.full(shape, jnp.inf)
  return Observation(
    nll=zeros,
    argmax=jnp.zeros(shape, jnp.int32),
    max_prob=zeros,
    margin=zeros,
    entropy=zeros,
    state_cosine=-inf,
    kl=inf,
    halt=zeros,
  )


class Signal(NamedTuple):
  """`init(shape) -> state` and `step(state, obs) -> (state, score)`."""

  init: Callable[[tuple[int, ...]], Any]
  step: Callable[[Any, Observation], tuple[Any, jax.Array]]


def _memoryless(score: Callable[[Observation], jax.Array]) -> Signal:
  return Signal(lambda shape: (), lambda state, obs: (state, score(obs)))


class _Patience(NamedTuple):
  argmax: jax.Array
  count: jax.Array


def _patience_init(shape: tuple[int, ...]) -> _Patience:
  return _Patience(jnp.full(shape, -1, jnp.int32), jnp.zeros(shape))


def _patience_step(
  state: _Patience, obs: Observation
) -> tuple[_Patience, jax.Array]:
  """Consecutive readouts that agree with the one before (2006.04152)."""
  count = jnp.where(obs.argmax == state.argmax, state.count + 1, 0.0)
  return _Patience(obs.argmax, count), count


SIGNALS: dict[str, Signal] = {
  'max_prob': _memoryless(lambda obs: obs.max_prob),
  'margin': _memoryless(lambda obs: obs.margin),
  'entropy': _memoryless(lambda obs: 1 - obs.entropy),
  'state_cosine': _memoryless(lambda obs: obs.state_cosine),
  'kl': _memoryless(lambda obs: -obs.kl),
  'q_halt': _memoryless(lambda obs: obs.halt),
  'patience': Signal(_patience_init, _patience_step),
}


def scores(name: str, observations: list[Observation]) -> jax.Array:
  """Score of every readout, [K, ...], float32."""
  signal = SIGNALS[name]
  state, score_K = signal.init(observations[0].nll.shape), []
  for obs in observations:
    state, score = signal.step(state, obs)
    score_K.append(score)
  return jnp.stack(score_K)
