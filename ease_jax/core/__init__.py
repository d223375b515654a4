"""The idea: the exit grid and the strategies on it, in plain jnp."""

# Importing them makes their signals known.
from ease_jax.core import calm as calm
from ease_jax.core import depth_adaptive as depth_adaptive
from ease_jax.core import frequent as frequent
from ease_jax.core import gain as gain
from ease_jax.core import halting as halting
from ease_jax.core import ouro as ouro
from ease_jax.core import shortlist as shortlist
