"""From normed states to logits: the only place where they are formed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct


class Capped(struct.PyTreeNode):
  """An unembedding whose logits have a soft limit, as in Gemma 2 (2408.00118).

  Attributes:
    table_VxD: the unembedding.
    cap: no logit is further from 0.
  """

  table_VxD: jax.Array
  cap: float = struct.field(pytree_node=False)

  @property
  def shape(self) -> tuple[int, ...]:
    return self.table_VxD.shape


Exact = jax.Array | Capped


class Screened(struct.PyTreeNode):
  """An unembedding that is looked at closely for the likeliest tokens alone.

  A product of low rank says roughly what all logits are. Those of the tokens
  that it finds likeliest are made anew, from the whole unembedding; the others
  stay rough, all raised by the same number.

  Attributes:
    exact: the unembedding.
    into_DxR: from a normed state to the rank.
    out_of_VxR: from there to all logits.
    shift: what is added to logits that stay rough, a scalar.
    candidates: tokens whose logits are exact.
  """

  exact: Exact
  into_DxR: jax.Array
  out_of_VxR: jax.Array
  shift: jax.Array
  candidates: int = struct.field(pytree_node=False)

  @property
  def shape(self) -> tuple[int, ...]:
    return self.exact.shape


Unembedding = Exact | Screened


def rows(w_VxD: Exact, id_C: jax.Array) -> Exact:
  """The unembedding of some tokens, [C, D]."""
  if isinstance(w_VxD, Capped):
    return Capped(w_VxD.table_VxD[id_C], w_VxD.cap)
  return w_VxD[id_C]


def table(w_VxD: Unembedding) -> jax.Array:
  """The unembedding itself, [V, D]."""
  if isinstance(w_VxD, Screened):
    return table(w_VxD.exact)
  return w_VxD.table_VxD if isinstance(w_VxD, Capped) else w_VxD


def capped(product: jax.Array, w_VxD: Unembedding) -> jax.Array:
  """Logits, from products of states and an unembedding; of the same shape."""
  if isinstance(w_VxD, Screened):
    return capped(product, w_VxD.exact)
  if not isinstance(w_VxD, Capped):
    return product
  return w_VxD.cap * jnp.tanh(product / w_VxD.cap)


def uncapped(
  error_NxV: jax.Array, logits_NxV: jax.Array, w_VxD: Unembedding
) -> jax.Array:
  """The derivative by the products, from that by the logits."""
  if not isinstance(w_VxD, Capped):
    return error_NxV
  return error_NxV * (1 - (logits_NxV / w_VxD.cap) ** 2)


def logits(h_NxD: jax.Array, w_VxD: Unembedding) -> jax.Array:
  """[N, V] float32 from normed states and the unembedding."""
  if isinstance(w_VxD, Screened):
    return _screened(h_NxD, w_VxD)
  return capped(_product(h_NxD, table(w_VxD)), w_VxD)


def logits_of(
  h_NxD: jax.Array, w_VxD: Unembedding, id_NxC: jax.Array
) -> jax.Array:
  """Logits of some tokens of each state, [N, C] float32."""
  w_NxCxD = table(w_VxD)[id_NxC]
  product_NxC = jnp.einsum(
    'nd,ncd->nc', h_NxD, w_NxCxD, preferred_element_type=jnp.float32
  )
  return capped(product_NxC, w_VxD)


def _product(x_NxR: jax.Array, w_VxR: jax.Array) -> jax.Array:
  return jax.lax.dot_general(
    x_NxR, w_VxR, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
  )


class Found(NamedTuple):
  """What a screen finds out, before both kinds of logits are one row.

  Attributes:
    rough_NxV: logits of all tokens, without the shift.
    id_NxC: the likeliest tokens by these.
    exact_NxC: their logits.
  """

  rough_NxV: jax.Array
  id_NxC: jax.Array
  exact_NxC: jax.Array


def found(h_NxD: jax.Array, w: Screened) -> Found:
  """Rough logits of normed states, and exact ones of the likeliest tokens."""
  rough_NxV = capped(_product(h_NxD @ w.into_DxR, w.out_of_VxR), w)
  _, id_NxC = jax.lax.top_k(rough_NxV, w.candidates)
  return Found(rough_NxV, id_NxC, logits_of(h_NxD, w, id_NxC))


def replaced(
  logits_NxV: jax.Array, id_NxC: jax.Array, value: jax.Array | float
) -> jax.Array:
  """The same logits, but for those of some tokens of each row."""
  row_Nx1 = jnp.arange(len(id_NxC))[:, None]
  return logits_NxV.at[row_Nx1, id_NxC].set(value)


def _screened(h_NxD: jax.Array, w: Screened) -> jax.Array:
  looked = found(h_NxD, w)
  raised_NxV = looked.rough_NxV + w.shift
  return replaced(raised_NxV, looked.id_NxC, looked.exact_NxC)
