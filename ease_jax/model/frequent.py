"""Logits of the most frequent tokens alone."""

import jax
import jax.numpy as jnp

from ease_jax.core.observations import Named
from ease_jax.model.unembedding import Exact, logits, rows


def of_frequent(
  number_C: jax.Array, w_VxD: Exact, normed_BxTxD: jax.Array
) -> Named:
  """What a readout says of some tokens, always the same ones.

  Args:
    number_C: the tokens; floats, as all parameters are.
    w_VxD: the unembedding of the readout.
    normed_BxTxD: its state as its head sees it.
  """
  id_C = number_C.astype(jnp.int32)
  *others, dim = normed_BxTxD.shape
  logit_NxC = logits(normed_BxTxD.reshape(-1, dim), rows(w_VxD, id_C))
  id_BxTxC = jnp.broadcast_to(id_C, (*others, len(id_C)))
  return Named(id_BxTxC, logit_NxC.reshape(id_BxTxC.shape))
