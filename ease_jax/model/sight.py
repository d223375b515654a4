"""Who sees whom: masks of a few tokens, and what whole windows see."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from ease_jax.core.routers import Taken
from ease_jax.core.spec import CAUSAL, ModelConfig
from ease_jax.model.attention import positions

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


class Places(NamedTuple):
  """Where the tokens of whole windows stand.

  Attributes:
    position_BxT: in their document, from 0; B may be 1.
    document_BxT: its number in the window, rising; None = all are of one.
    gapless: static: no token between two of them is left out.
  """

  position_BxT: jax.Array
  document_BxT: jax.Array | None = None
  gapless: bool = True

  def of(self, some: Taken) -> 'Places':
    """Those of tokens that a program runs alone."""
    if self.document_BxT is not None:
      both_BxTx2 = jnp.stack([self.position_BxT, self.document_BxT], -1)
      both_NxMx2 = some.of(both_BxTx2)
      gapless = some.token_NxM is None
      return Places(both_NxMx2[..., 0], both_NxMx2[..., 1], gapless)
    if some.token_NxM is None:  # rows stand alike
      return self
    return Places(some.token_NxM, gapless=False)


def places_of(cfg: ModelConfig, token_BxT: jax.Array) -> Places:
  """Where the tokens of windows stand: at position 0 a document begins.

  Args:
    cfg: of the model; says which token begins a document, if any does.
    token_BxT: input tokens.
  """
  offset_1xT = positions(token_BxT.shape[1])
  if cfg.document_start is None:
    return Places(offset_1xT)
  begins_BxT = token_BxT == cfg.document_start
  start_BxT = jax.lax.cummax(jnp.where(begins_BxT, offset_1xT, 0), axis=1)
  document_BxT = jnp.cumsum(begins_BxT, axis=1, dtype=jnp.int32)
  return Places(offset_1xT - start_BxT, document_BxT)


@struct.dataclass
class Sight:
  """Whom the tokens of whole windows see, without the [T, T] mask of it.

  Attributes:
    attention: causal or full.
    window: how many of the last tokens a token sees; 0 = all.
    position_BxT: where the tokens stand, rising in a document; B may be 1.
    seen_BxT: who may be seen by others; None = all.
    document_BxT: beyond which nobody looks; None = all are of one.
    gapless: whether no token between two of them is left out, as is known.
  """

  attention: str = struct.field(pytree_node=False)
  window: int = struct.field(pytree_node=False)
  position_BxT: jax.Array
  seen_BxT: Mask = None
  document_BxT: jax.Array | None = None
  gapless: bool = struct.field(pytree_node=False, default=False)

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
    if self.document_BxT is not None:
      here_BxTx1 = self.document_BxT[:, :, None]
      near_BxTxT = near_BxTxT & (here_BxTx1 == self.document_BxT[:, None, :])
    return visible(near_BxTxT, self.seen_BxT)


def sight_of(
  cfg: ModelConfig, window: int, places: Places, seen_BxT: Mask
) -> Sight:
  """Whom tokens see in a layer.

  Args:
    cfg: of the model.
    window: of the layer.
    places: of the tokens.
    seen_BxT: who may be seen by others.
  """
  return Sight(
    cfg.attention,
    window,
    places.position_BxT,
    seen_BxT,
    places.document_BxT,
    places.gapless,
  )
