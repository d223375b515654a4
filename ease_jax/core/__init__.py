"""The idea: the exit grid and the strategies on it, in plain jnp."""

from ease_jax.core import halting as halting  # makes its signal known
