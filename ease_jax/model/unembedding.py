"""From normed states to logits: the only place where they are formed."""

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


Unembedding = jax.Array | Capped


def table(w_VxD: Unembedding) -> jax.Array:
  """The unembedding without its limit, [V, D]."""
  return w_VxD.table_VxD if isinstance(w_VxD, Capped) else w_VxD


def capped(product: jax.Array, w_VxD: Unembedding) -> jax.Array:
  """Logits, from products of states and an unembedding; of the same shape."""
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
  product_NxV = jax.lax.dot_general(
    h_NxD,
    table(w_VxD),
    (((1,), (1,)), ((), ())),
    preferred_element_type=jnp.float32,
  )
  return capped(product_NxV, w_VxD)
