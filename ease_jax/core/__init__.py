"""The idea: the exit grid and the strategies on it, in plain jnp."""
