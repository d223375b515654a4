"""Losses of states under a head, without ever holding all logits.

The gradient is formed while the tokens are walked forward, so that no chunk of
logits is computed twice or kept for the backward pass. That of the unembedding
is one sum over all readouts that share it: memory does not grow with them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ease_jax import sharding
from ease_jax.model.chunks import chunked, joined, placed
from ease_jax.model.unembedding import Unembedding, logits, table, uncapped

Tree = Any  # any tree of arrays

# logits [N, V], what the loss needs of each of these tokens, and of all, to the
# loss of each, [N], and its derivative by the logits, [N, V].
Graded = Callable[[jax.Array, Tree, Tree], tuple[jax.Array, jax.Array]]
# The same without the derivative.
TokenLoss = Callable[[jax.Array, Tree, Tree], jax.Array]


class Lesson(NamedTuple):
  """How the loss of tokens is made.

  Attributes:
    graded: the loss of a chunk of tokens and its derivative by their logits; a
      function that can be compared, as programs are compiled for it.
    shared: what it needs of all tokens; no gradient reaches it.
  """

  graded: Graded
  shared: Tree = None


class Owed(NamedTuple):
  """The gradient of an unembedding by the losses so far.

  Attributes:
    sum_PxVxD: float32, of each part of the rows of a mesh; devices add theirs
      up once all losses are there.
  """

  sum_PxVxD: jax.Array


def nothing_owed(w_VxD: Unembedding) -> Owed:
  """Before the first loss."""
  parts = sharding.row_parts()
  zeros_PxVxD = jnp.zeros((parts, *w_VxD.shape), jnp.float32)
  return Owed(
    sharding.constrain(zeros_PxVxD, sharding.ROWS, sharding.TENSOR),
  )


def linear_loss(
  lesson: Lesson,
  h_NxD: jax.Array,
  w_VxD: Unembedding,
  tokens_N: Tree,
  weight_N: jax.Array,
) -> jax.Array:
  """sum_n weight_n * loss(h_n @ w.T), a float32 scalar.

  Tokens of weight 0 (padding) contribute nothing to the value or to any
  gradient. Equal to the naive computation to float32 rounding. Gradients flow
  to the states, the unembedding and the weights, to nothing else.

  Args:
    lesson: how the loss is made.
    h_NxD: normed states.
    w_VxD: the unembedding.
    tokens_N: what the loss needs of each token.
    weight_N: float32 weight of each token.
  """
  loss, owed = owing_loss(
    lesson, h_NxD, w_VxD, tokens_N, weight_N, 1.0, nothing_owed(w_VxD)
  )
  return loss + paid(w_VxD, owed)


def owing_loss(
  lesson: Lesson,
  h_NxD: jax.Array,
  w_VxD: Unembedding,
  tokens_N: Tree,
  weight_N: jax.Array,
  scale: jax.Array | float,
  owed: Owed,
) -> tuple[jax.Array, Owed]:
  """`linear_loss`, whose gradient of the unembedding is owed until `paid`.

  Args:
    lesson, h_NxD, w_VxD, tokens_N, weight_N: as there.
    scale: what the loss is multiplied with where losses are summed.
    owed: by the losses before it.

  Returns:
    The loss, not multiplied, and what is owed with it.
  """
  walked: tuple[jax.Array, jax.Array] = _walked(
    lesson.graded,
    h_NxD,
    placed(w_VxD),
    (tokens_N, lesson.shared),
    weight_N,
    jnp.float32(scale),
    owed.sum_PxVxD,
  )
  loss, sum_PxVxD = walked
  return loss, Owed(jax.lax.stop_gradient(sum_PxVxD))


def paid(w_VxD: Unembedding, owed: Owed) -> jax.Array:
  """0, with the gradient that losses owe the unembedding."""
  return _zero(table(w_VxD), owed.sum_PxVxD)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _walked(
  graded: Graded,
  h_NxD: jax.Array,
  w_VxD: Unembedding,
  facts: tuple[Tree, Tree],
  weight_N: jax.Array,
  scale: jax.Array,
  owed_PxVxD: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """The loss, and what is owed; nothing is where nobody asks for a gradient.

  That is asked of states or of the unembedding, which learns alone where all
  layers stay: so it is an argument here, though its gradient is `paid`.
  """
  del scale
  tokens_N, shared = facts
  chunks = chunked(h_NxD, tokens_N, weight_N, vocab_size=w_VxD.shape[0])

  def body(total, chunk):
    h_NxD, tokens_N, weight_N = chunk
    loss_N, _ = graded(logits(h_NxD, w_VxD), tokens_N, shared)
    return total + weight_N @ loss_N, None

  return jax.lax.scan(body, jnp.float32(0), chunks)[0], owed_PxVxD


def _forward(graded, h_NxD, w_VxD, facts, weight_N, scale, owed_PxVxD):
  tokens_N, shared = facts
  chunks = chunked(h_NxD, tokens_N, weight_N, vocab_size=w_VxD.shape[0])

  def body(carry, chunk):
    total, owed_PxVxD = carry
    h_NxD, tokens_N, weight_N = chunk
    logits_NxV = logits(h_NxD, w_VxD)
    loss_N, error_NxV = graded(logits_NxV, tokens_N, shared)
    error_NxV = uncapped(error_NxV, logits_NxV, w_VxD)
    error_NxV = (error_NxV * weight_N[:, None]).astype(h_NxD.dtype)
    owed_PxVxD += scale * _by_part(error_NxV, h_NxD, len(owed_PxVxD))
    dh_NxD = error_NxV @ table(w_VxD)
    return (total + weight_N @ loss_N, owed_PxVxD), (dh_NxD, loss_N)

  start = jnp.float32(0), owed_PxVxD
  (total, owed_PxVxD), (dh, loss) = jax.lax.scan(body, start, chunks)
  num = len(h_NxD)
  return (total, owed_PxVxD), (joined(dh, num), joined(loss, num))


def _by_part(error_NxV: jax.Array, h_NxD: jax.Array, parts: int) -> jax.Array:
  """The gradient of the unembedding by each part of the rows, [P, V, D]."""
  error_PxNxV = error_NxV.reshape(parts, -1, error_NxV.shape[-1])
  h_PxNxD = h_NxD.reshape(parts, -1, h_NxD.shape[-1])
  product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
  return product(error_PxNxV.swapaxes(1, 2), h_PxNxD)


def _backward(graded, residuals, cotangents):
  del graded
  dh_NxD, loss_N = residuals
  by_loss, _ = cotangents

  def scaled(x: jax.Array) -> jax.Array:
    return (by_loss * x).astype(x.dtype)

  return scaled(dh_NxD), None, None, scaled(loss_N), None, None


_walked.defvjp(_forward, _backward)


@jax.custom_vjp
def _zero(w_VxD: jax.Array, owed_PxVxD: jax.Array) -> jax.Array:
  del w_VxD, owed_PxVxD
  return jnp.float32(0)


def _zero_forward(w_VxD, owed_PxVxD):
  dw_VxD = owed_PxVxD.sum(0)
  dw_VxD = sharding.constrain(dw_VxD, sharding.TENSOR, sharding.FSDP)
  # An array of no elements carries a type through a derivative.
  return _zero(w_VxD, owed_PxVxD), (dw_VxD, jnp.zeros((0,), w_VxD.dtype))


def _zero_backward(residuals, by_loss):
  dw_VxD, like = residuals
  return (by_loss * dw_VxD).astype(like.dtype), None


_zero.defvjp(_zero_forward, _zero_backward)


def cross_entropy(
  logits_NxV: jax.Array, target_N: jax.Array, shared: None = None
) -> tuple[jax.Array, jax.Array]:
  """-log p(target), [N] nats, and its derivative by the logits, [N, V]."""
  del shared
  chosen_N = jnp.take_along_axis(logits_NxV, target_N[:, None], 1)[:, 0]
  nll_N = jax.nn.logsumexp(logits_NxV, axis=-1) - chosen_N
  error_NxV = (
    jax.nn.softmax(logits_NxV).at[jnp.arange(len(target_N)), target_N].add(-1.0)
  )
  return nll_N, error_NxV


CROSS_ENTROPY = Lesson(cross_entropy)


def linear_cross_entropy(
  h_NxD: jax.Array, w_VxD: Unembedding, target_N: jax.Array, weight_N: jax.Array
) -> jax.Array:
  """sum_n weight_n * cross_entropy(h_n @ w.T, target_n); see `linear_loss`.

  Args:
    h_NxD: normed states.
    w_VxD: the unembedding.
    target_N: int token ids in [0, V).
    weight_N: float32 weight of each token.
  """
  return linear_loss(CROSS_ENTROPY, h_NxD, w_VxD, target_N, weight_N)


def differentiated(loss: TokenLoss) -> Graded:
  """A loss of tokens with the derivative that JAX finds.

  Args:
    loss: logits [N, V], what it needs of each token, and of all, to the loss of
      each token, [N] nats, which no other token's logits are part of.
  """
  return functools.partial(_differentiated, loss)


def _differentiated(
  loss: TokenLoss, logits_NxV: jax.Array, tokens_N: Tree, shared: Tree
) -> tuple[jax.Array, jax.Array]:
  def of_logits(logits_NxV: jax.Array) -> jax.Array:
    return loss(logits_NxV, tokens_N, shared)

  loss_N, pullback = jax.vjp(of_logits, logits_NxV)
  (error_NxV,) = pullback(jnp.ones_like(loss_N))
  return loss_N, error_NxV
