"""Which token comes next, given logits."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp

from ease_jax.checks import NotNegative, Range, ReadIf, Size, check_fields


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How tokens are drawn (static).

  Attributes:
    temperature: 0 takes the most likely token.
    top_k: only from so many most likely ones and their equals; 0 = from all.
    top_p: only from the fewest that hold this probability (Holtzman et al.
      1904.09751).
  """

  temperature: NotNegative = 0.0
  top_k: Annotated[Size, ReadIf('temperature')] = 0
  top_p: Annotated[float, Range(0, 1, above=True), ReadIf('temperature')] = 1.0

  def __post_init__(self):
    check_fields('generate', self)


def log_weights(logits: jax.Array, sampling: Sampling) -> jax.Array:
  """Unnormalised log-probabilities that are drawn from, [..., V] float32.

  At temperature 0 all but the most likely token (the first of equals) are
  -inf.
  """
  if sampling.temperature == 0:
    best = jax.nn.one_hot(logits.argmax(-1), logits.shape[-1], dtype=bool)
    return jnp.where(best, 0.0, -jnp.inf)
  logits = logits / sampling.temperature
  if 0 < sampling.top_k < logits.shape[-1]:
    least = jax.lax.top_k(logits, sampling.top_k)[0][..., -1:]
    logits = jnp.where(logits >= least, logits, -jnp.inf)
  if sampling.top_p < 1:
    p = jax.nn.softmax(logits)
    ordered = -jnp.sort(-p, axis=-1)
    # Kept while those before it do not hold enough: at least one always is.
    before = jnp.cumsum(ordered, -1) - ordered
    least = jnp.where(before < sampling.top_p, ordered, jnp.inf).min(
      -1, keepdims=True
    )
    logits = jnp.where(p >= least, logits, -jnp.inf)
  return logits


def draw(
  logits_BxV: jax.Array, key_B: jax.Array, sampling: Sampling
) -> jax.Array:
  """One token for each row with its own key, [B] int32."""
  if sampling.temperature == 0:
    return logits_BxV.argmax(-1).astype(jnp.int32)
  weights_BxV = log_weights(logits_BxV, sampling)
  return jax.vmap(jax.random.categorical)(key_B, weights_BxV).astype(jnp.int32)
