"""The stack: a decoder-only Transformer whose layers can be read out."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from ease_jax import layers
from ease_jax.config import ModelConfig


class Stack(nn.Module):
  """Decoder-only stack; S = 1, a cell is one layer.

  `model.apply(variables, tokens)` returns all logits for exploring. Training,
  evaluation and decoding use the pieces below, through `readout.py`.
  """

  cfg: ModelConfig

  def setup(self):
    c = self.cfg
    init = nn.initializers.normal(0.02)
    self.embed = self.param('embed', init, (c.vocab_size, c.dim), jnp.float32)
    if not c.tie_embeddings:
      self.unembed = self.param(
          'unembed', init, (c.vocab_size, c.dim), jnp.float32)
    # static_argnums counts `self`: 4 is `deterministic`.
    block = (nn.remat(layers.Block, static_argnums=(4,)) if c.remat
             else layers.Block)  # pyformat: disable
    for i in range(c.num_layers):
      setattr(self, f'layer_{i}', block(c))
    shared = c.readout_norm == 'shared'
    for name in ['readout_norm'] if shared else self._norm_names():
      setattr(self, name, layers.RMSNorm(jnp.dtype(c.dtype)))
    self.drop = nn.Dropout(c.dropout)

  def _norm_names(self) -> list[str]:
    return [f'readout_norm_{k}' for k in range(len(self.cfg.readouts))]

  @property
  def blocks(self) -> list[layers.Block]:
    return [getattr(self, f'layer_{i}') for i in range(self.cfg.num_layers)]

  def embed_tokens(self, token_BxT: jax.Array) -> jax.Array:
    """Input states [B, T, D] in the compute type."""
    return self.embed[token_BxT].astype(self.cfg.dtype)

  def normed(self, k: int, h_BxTxD: jax.Array) -> jax.Array:
    """The state of readout `k` as its head sees it."""
    shared = self.cfg.readout_norm == 'shared'
    name = 'readout_norm' if shared else f'readout_norm_{k}'
    return getattr(self, name)(h_BxTxD)

  def unembedding(self) -> jax.Array:
    """[V, D] in the compute type."""
    table = self.embed if self.cfg.tie_embeddings else self.unembed
    return table.astype(self.cfg.dtype)

  def states(
      self,
      token_BxT: jax.Array,
      deterministic: bool = True,
      stops: Callable[[int, jax.Array], jax.Array] | None = None,
  ) -> list[jax.Array]:
    """State of every readout before its norm, K of [B, T, D].

    Args:
      token_BxT: the tokens.
      deterministic: no dropout.
      stops: (k, h_BxTxD) -> [B, T] bool, the tokens that exit at readout k:
        they keep that state, and deeper layers project their keys and values
        from it (`copy_state`). None: no token exits.
    """
    h_BxTxD = self.embed_tokens(token_BxT)
    h_BxTxD = self.drop(h_BxTxD, deterministic=deterministic)
    mask = layers.causal_mask(token_BxT.shape[1])
    rotation = layers.rotation(self.cfg, jnp.arange(token_BxT.shape[1]))
    state_K, done_BxT = [], jnp.zeros(token_BxT.shape, bool)
    for number, block in enumerate(self.blocks, 1):
      new_BxTxD = block(h_BxTxD, mask, rotation, deterministic)
      if stops is not None:
        new_BxTxD = jnp.where(done_BxT[..., None], h_BxTxD, new_BxTxD)
      h_BxTxD = new_BxTxD
      if number in self.cfg.readouts:
        if stops is not None:
          done_BxT |= stops(len(state_K), h_BxTxD)
        state_K.append(h_BxTxD)
    return state_K

  def __call__(
      self, token_BxT: jax.Array, deterministic: bool = True
  ) -> jax.Array:
    """Logits of every readout, [K, B, T, V] float32."""
    heads = [
        (self.normed(k, h_BxTxD) @ self.unembedding().T).astype(jnp.float32)
        for k, h_BxTxD in enumerate(self.states(token_BxT, deterministic))
    ]
    return jnp.stack(heads)
