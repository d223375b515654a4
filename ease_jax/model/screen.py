"""A cheaper head: a factor of low rank finds the logits worth making."""

import flax.linen as nn
import jax.numpy as jnp

from ease_jax.core.spec import ModelConfig
from ease_jax.model.unembedding import Exact, Screened


class Screen(nn.Module):
  """The factor beside an unembedding; it is fitted, never trained."""

  cfg: ModelConfig

  @nn.compact
  def __call__(self, exact: Exact) -> Screened:
    c = self.cfg
    zeros = nn.initializers.zeros
    shape = c.dim, c.screen_rank
    into_DxR = self.param('into', zeros, shape, jnp.float32)
    shape = c.vocab_size, c.screen_rank
    out_of_VxR = self.param('out_of', zeros, shape, jnp.float32)
    shift = self.param('shift', zeros, (), jnp.float32)
    dtype = jnp.dtype(c.dtype)
    return Screened(
      exact,
      into_DxR.astype(dtype),
      out_of_VxR.astype(dtype),
      shift,
      min(c.screen_candidates, c.vocab_size),
    )
