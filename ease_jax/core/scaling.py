"""Scaling: states as small modules look at them."""

import jax
import jax.numpy as jnp

EPSILON = 1e-6


def unit_size(h: jax.Array) -> jax.Array:
  """A state [..., D] scaled to a mean square of 1, float32.

  The length of a state grows with depth; what looks at several depths must
  not depend on it.
  """
  x = h.astype(jnp.float32)
  mean_square = jnp.mean(x * x, axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(mean_square + EPSILON)
