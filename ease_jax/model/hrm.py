"""HRM: a slow and a fast state that refine each other (2506.21734)."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ease_jax.model.body import Body, Read, Through, first_state

HALT_BIAS = -5.0  # at first nothing is worth stopping for


class States(NamedTuple):
  low_BxTxD: jax.Array
  high_BxTxD: jax.Array


class HRM(Body):
  """N cycles of T updates of the low state and one of the high state.

    low <- L(low + high + x), T times;  high <- H(high + low);  read high

  Gradients reach the last update of each state only (the one-step gradient).
  As a language model: causal layers, both states per position, halting per
  token. Layers 0 to L-1 are the low module, L to 2L-1 the high one.
  """

  @property
  def embed_std(self) -> float:
    return self.cfg.dim**-0.5

  def setup_carry(self) -> None:
    self.halt = nn.Dense(
      2,
      kernel_init=nn.initializers.zeros,
      bias_init=nn.initializers.constant(HALT_BIAS),
    )

  def embed_tokens(self, token_BxT: jax.Array) -> jax.Array:
    """Scaled by sqrt(D) to unit size, that of the states it is added to."""
    return super().embed_tokens(token_BxT) * self.cfg.dim**0.5

  def init_carry(
    self, x_BxTxD: jax.Array, position_BxT: jax.Array, key: jax.Array
  ) -> States:
    if self.cfg.carry_init == 'fixed':
      key = jax.random.key(0)
    low_key, high_key = jax.random.split(key)
    first = lambda key: first_state(
      self.cfg.carry_init, x_BxTxD, position_BxT, key, 1.0
    )
    return States(first(low_key), first(high_key))

  def segment(
    self, x_BxTxD: jax.Array, carry: States, through: Through, read: Read
  ) -> States:
    c = self.cfg
    low_BxTxD, high_BxTxD = carry
    modules = self.blocks[: c.num_layers], self.blocks[c.num_layers :]
    ran = 0

    def run(blocks, h_BxTxD):
      nonlocal ran
      for block in blocks:
        h_BxTxD = through(ran, block, h_BxTxD)
        ran += 1
      return h_BxTxD

    for cycle in range(c.cycles):
      for step in range(c.cycle_steps):
        if (cycle, step) == (c.cycles - 1, c.cycle_steps - 1):
          low_BxTxD, high_BxTxD = jax.lax.stop_gradient((low_BxTxD, high_BxTxD))
        low_BxTxD = run(modules[0], low_BxTxD + high_BxTxD + x_BxTxD)
      high_BxTxD = run(modules[1], high_BxTxD + low_BxTxD)
    return States(low_BxTxD, read(0, high_BxTxD))

  def halt_logits(self, h_BxTxD: jax.Array) -> jax.Array | None:
    return self.halt(h_BxTxD.astype(jnp.float32))
