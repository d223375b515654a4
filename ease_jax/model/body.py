"""What all bodies share: embedding, readouts, and how they are run."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ease_jax.config import ModelConfig
from ease_jax.model import layers

# through(i, block, h_BxTxD) -> h_BxTxD: runs the i-th layer of a segment.
Through = Callable[[int, layers.Block, jax.Array], jax.Array]
# read(r, h_BxTxD) -> h_BxTxD: the r-th readout of a segment stands at this
# state; what comes back is what goes on.
Read = Callable[[int, jax.Array], jax.Array]


class Body(nn.Module):
  """A segment of layers, run S times with a state carried between the runs.

  A body says in `segment` which layers follow on each other and where they
  are read. Training, evaluation and decoding hand it what shall happen there,
  so that they cannot drift apart. `model.apply(variables, tokens)` returns
  all logits for exploring; everything else goes through `readout.py`.
  """

  cfg: ModelConfig

  def setup(self):
    c = self.cfg
    init = nn.initializers.normal(self.embed_std)
    self.embed = self.param('embed', init, (c.vocab_size, c.dim), jnp.float32)
    if not c.tie_embeddings:
      self.unembed = self.param(
        'unembed', init, (c.vocab_size, c.dim), jnp.float32
      )
    # static_argnums counts `self`: 4 is `deterministic`.
    block = (
      nn.remat(layers.Block, static_argnums=(4,)) if c.remat else layers.Block
    )
    for i in range(c.num_blocks):
      setattr(self, f'layer_{i}', block(c))
    shared = c.readout_norm == 'shared'
    for name in ['readout_norm'] if shared else self._norm_names():
      setattr(self, name, layers.RMSNorm(jnp.dtype(c.dtype)))
    self.drop = nn.Dropout(c.dropout)
    self.setup_carry()

  def setup_carry(self) -> None:
    """Parameters of the state between segments."""

  @property
  def embed_std(self) -> float:
    """Standard deviation of new embeddings."""
    return 0.02

  def _norm_names(self) -> list[str]:
    return [f'readout_norm_{r}' for r in range(len(self.cfg.readouts))]

  @property
  def blocks(self) -> list[layers.Block]:
    return [getattr(self, f'layer_{i}') for i in range(self.cfg.num_blocks)]

  def embed_tokens(self, token_BxT: jax.Array) -> jax.Array:
    """Input states [B, T, D] in the compute type."""
    return self.embed[token_BxT].astype(self.cfg.dtype)

  def normed(self, k: int, h_BxTxD: jax.Array) -> jax.Array:
    """The state of readout `k` as its head sees it; the same in segments."""
    shared = self.cfg.readout_norm == 'shared'
    name = f'readout_norm_{k % len(self.cfg.readouts)}'
    return getattr(self, 'readout_norm' if shared else name)(h_BxTxD)

  def unembedding(self) -> jax.Array:
    """[V, D] in the compute type."""
    table = self.embed if self.cfg.tie_embeddings else self.unembed
    return table.astype(self.cfg.dtype)

  def init_carry(
    self, x_BxTxD: jax.Array, position_BxT: jax.Array, key: jax.Array
  ) -> Any:
    """What the first segment finds: a tree of [B, T, D].

    Args:
      x_BxTxD: the input states.
      position_BxT: their positions; random states depend on nothing else. B
        may be 1 where all rows stand at the same ones.
      key: of random states.
    """
    raise NotImplementedError

  def segment(
    self, x_BxTxD: jax.Array, carry: Any, through: Through, read: Read
  ) -> Any:
    """Runs one segment and returns what the next one finds."""
    raise NotImplementedError

  def halt_logits(self, h_BxTxD: jax.Array) -> jax.Array | None:
    """Values of stopping and of going on, [B, T, 2]; None if not learned."""
    del h_BxTxD

  def through(self, length: int, deterministic: bool = True) -> Through:
    """Plain layers over windows of so many tokens."""
    mask = layers.causal_mask(length)
    rotation = layers.rotation(self.cfg, layers.positions(length))
    return lambda i, block, h: block(h, mask, rotation, deterministic)

  def states(
    self, token_BxT: jax.Array, deterministic: bool = True
  ) -> list[jax.Array]:
    """State of every readout before its norm, K of [B, T, D]."""
    x_BxTxD = self.embed_tokens(token_BxT)
    x_BxTxD = self.drop(x_BxTxD, deterministic=deterministic)
    length, state_K = token_BxT.shape[1], []

    def read(r, h_BxTxD):
      state_K.append(h_BxTxD)
      return h_BxTxD

    through = self.through(length, deterministic)
    carry = self.init_carry(x_BxTxD, layers.positions(length), evaluation_key())
    for _ in range(self.cfg.segments):
      carry = self.segment(x_BxTxD, carry, through, read)
    return state_K

  def __call__(
    self, token_BxT: jax.Array, deterministic: bool = True
  ) -> jax.Array:
    """Logits of every readout, [K, B, T, V] float32."""
    state_K = self.states(token_BxT, deterministic)
    for h_BxTxD in state_K[-1:]:  # so that its parameters come to be
      self.halt_logits(h_BxTxD)
    heads = [
      (self.normed(k, h_BxTxD) @ self.unembedding().T).astype(jnp.float32)
      for k, h_BxTxD in enumerate(state_K)
    ]
    return jnp.stack(heads)


def evaluation_key() -> jax.Array:
  """Random first states are the same ones in every evaluation."""
  return jax.random.key(0)


def first_state(
  kind: str,
  x_BxTxD: jax.Array,
  position_BxT: jax.Array,
  key: jax.Array,
  std: float,
) -> jax.Array:
  """First state of a carry, [B, T, D], for any T and the same in all rows.

  Args:
    kind: zeros; fixed, one random vector; random, one for each position.
    x_BxTxD: gives shape and type.
    position_BxT: absolute positions; B may be 1.
    key: what is drawn depends on it and on the position only.
    std: standard deviation of what is drawn.
  """
  dim = x_BxTxD.shape[-1]
  if kind == 'zeros':
    return jnp.zeros_like(x_BxTxD)
  if kind == 'fixed':
    # Cut off at 2 it has a standard deviation of 0.88.
    z = jax.random.truncated_normal(key, -2.0, 2.0, (1, 1, dim)) / 0.87962566
  elif kind == 'random':
    draw = lambda p: jax.random.normal(jax.random.fold_in(key, p), (dim,))
    z = jax.vmap(jax.vmap(draw))(position_BxT)
  else:
    raise ValueError(f'unknown first state {kind!r}')
  return jnp.broadcast_to(std * z, x_BxTxD.shape).astype(x_BxTxD.dtype)
