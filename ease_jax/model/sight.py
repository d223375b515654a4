"""Who sees whom: masks of a few tokens, and what whole windows see."""

import jax
import jax.numpy as jnp
from flax import struct

from ease_jax.core.spec import CAUSAL

Mask = jax.Array | None  # [B, T] bool; None = all tokens


def causal_mask(length: int) -> jax.Array:
  """[1, T, T] bool: query t sees keys 0..t."""
  return jnp.tril(jnp.ones((length, length), bool))[None]


def within(
  mask_BxTxT: jax.Array, position_BxT: jax.Array, window: int
) -> jax.Array:
  """A mask of who sees whom, each the last `window` tokens alone.

  Args:
    mask_BxTxT: bool; B may be 1.
    position_BxT: of the tokens; B may be 1.
    window: how many, the token itself among them; 0 = all.
  """
  if not window:
    return mask_BxTxT
  ago_BxTxT = position_BxT[:, :, None] - position_BxT[:, None, :]
  return mask_BxTxT & (ago_BxTxT < window)


def visible(mask_BxTxT: jax.Array, seen_BxT: Mask) -> jax.Array:
  """A mask of who sees whom, without those who may not be seen, [B, T, T].

  A token always sees itself: the softmax of one that nobody sees, whose result
  is thrown away, would otherwise have nothing to look at.
  """
  if seen_BxT is None:
    return mask_BxTxT
  itself_1xTxT = jnp.eye(seen_BxT.shape[1], dtype=bool)[None]
  return mask_BxTxT & (seen_BxT[:, None, :] | itself_1xTxT)


@struct.dataclass
class Sight:
  """Whom the tokens of whole windows see, without the [T, T] mask of it.

  Attributes:
    attention: causal or full.
    window: how many of the last tokens a token sees; 0 = all.
    position_BxT: where the tokens stand, rising; B may be 1.
    seen_BxT: who may be seen by others; None = all.
  """

  attention: str = struct.field(pytree_node=False)
  window: int = struct.field(pytree_node=False)
  position_BxT: jax.Array
  seen_BxT: Mask = None

  @property
  def is_causal(self) -> bool:
    return self.attention == CAUSAL

  def mask(self) -> jax.Array:
    """The same as a mask, [B, T, T] bool; B may be 1."""
    length = self.position_BxT.shape[1]
    mask_BxTxT = jnp.ones((1, length, length), bool)
    if self.is_causal:
      mask_BxTxT = causal_mask(length)
    near_BxTxT = within(mask_BxTxT, self.position_BxT, self.window)
    return visible(near_BxTxT, self.seen_BxT)
