"""Observations: all that may be seen of a token at one readout."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Named(NamedTuple):
  """Some tokens of the vocabulary, and what a readout says of them."""

  id: jax.Array  # [..., C] int32
  logit: jax.Array  # [..., C] float32


class Observation(NamedTuple):
  """What a signal may look at, for each token of one readout, float32.

  On the first readout there is no previous one: `kl` and `state_change` are
  +inf and `state_cosine` -inf, which makes their signals' scores -inf there.
  """

  nll: jax.Array  # -log p(target), nats
  argmax: jax.Array  # most likely token, int32
  max_prob: jax.Array  # its probability
  margin: jax.Array  # its probability minus the second one's
  entropy: jax.Array  # of the distribution, in units of log V
  state_cosine: jax.Array  # of this and the previous readout's state
  state_change: jax.Array  # length of their difference, in previous lengths
  kl: jax.Array  # KL(previous || this), nats
  gate: dict[str, jax.Array]  # [..., O] outputs of learned signals, by name
  named: dict[str, Named]  # candidates of signals that ask of a few tokens


def blank(shape: tuple[int, ...]) -> Observation:
  """An observation that says nothing, for readouts without head or previous."""
  zeros = jnp.zeros(shape)
  infinite = jnp.full(shape, jnp.inf)
  return Observation(
    nll=zeros,
    argmax=jnp.zeros(shape, jnp.int32),
    max_prob=zeros,
    margin=zeros,
    entropy=zeros,
    state_cosine=-infinite,
    state_change=infinite,
    kl=infinite,
    gate={},
    named={},
  )


def _max_prob(obs: Observation, target_BxT: jax.Array) -> jax.Array:
  del target_BxT
  return obs.max_prob


def _correct(obs: Observation, target_BxT: jax.Array) -> jax.Array:
  return (obs.argmax == target_BxT).astype(jnp.float32)


# By which tokens stop while training, [B, T]: what a readout says of each
# token, and the true next ones.
EXIT_SCORES = {'max_prob': _max_prob, 'correct': _correct}
