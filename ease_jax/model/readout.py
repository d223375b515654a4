"""From states to observations without ever holding all logits.

All functions walk the tokens in chunks of logits (`model.chunks`); losses are
`model.linear_loss`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.core import observations
from ease_jax.core.observations import Named, Observation
from ease_jax.core.signals import Signal
from ease_jax.model.chunks import chunked, joined, placed
from ease_jax.model.unembedding import Unembedding as Unembedding
from ease_jax.model.unembedding import logits as logits
from ease_jax.model.unembedding import logits_of


class Read(NamedTuple):
  """The state at a readout."""

  h_BxTxD: jax.Array
  normed_BxTxD: jax.Array  # as its head sees it


def likeliest(
  h_NxD: jax.Array, w_VxD: Unembedding, num: int
) -> tuple[jax.Array, jax.Array]:
  """The tokens of the largest logits: ids [N, num] int32, logits float32.

  Args:
    h_NxD: normed states.
    w_VxD: the unembedding.
    num: how many of each.
  """

  def chunk(h_NxD: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jax.lax.top_k(logits(h_NxD, w_VxD), num)

  w_VxD = placed(w_VxD)
  (chunks,) = chunked(h_NxD, vocab_size=w_VxD.shape[0])
  logits_cxNxk, ids_cxNxk = jax.lax.map(chunk, chunks)
  return joined(ids_cxNxk, len(h_NxD)), joined(logits_cxNxk, len(h_NxD))


def named(
  obs: Observation,
  read: Read,
  id_BxTxC: jax.Array | None,
  w_VxD: Unembedding,
  signal: Signal,
) -> Observation:
  """An observation with the logits of a signal's candidates, if it has any.

  Args:
    obs: what else is seen at the readout.
    read: its state.
    id_BxTxC: the candidates; None = the readout names them.
    w_VxD: the unembedding.
    signal: whose candidates.
  """
  num = signal.candidates
  if not num:
    return obs

  shape = *read.normed_BxTxD.shape[:-1], num
  h_NxD = _flat(read.normed_BxTxD)
  if id_BxTxC is None:
    id_NxC, logit_NxC = likeliest(h_NxD, w_VxD, num)
  else:
    id_NxC = _flat(id_BxTxC)
    logit_NxC = _logits_of(h_NxD, w_VxD, id_NxC)
  found = Named(id_NxC.reshape(shape), logit_NxC.reshape(shape))
  return obs._replace(named=obs.named | {signal.name: found})


def _logits_of(
  h_NxD: jax.Array, w_VxD: Unembedding, id_NxC: jax.Array
) -> jax.Array:
  """Logits of some tokens of each state, [N, C] float32."""

  def chunk(some: tuple[jax.Array, jax.Array]) -> jax.Array:
    h_NxD, id_NxC = some
    return logits_of(h_NxD, w_VxD, id_NxC)

  num = id_NxC.shape[1]
  chunks = chunked(h_NxD, id_NxC, vocab_size=num * h_NxD.shape[1])
  return joined(jax.lax.map(chunk, chunks), len(h_NxD))


def _observe(chunk, w_VxD, before_VxD):
  h_NxD, prev_NxD, prevn_NxD, n_NxD, target_N = chunk
  before_NxV = None
  if before_VxD is not None:
    before_NxV = logits(prevn_NxD, before_VxD)
  obs = statistics(logits(n_NxD, w_VxD), target_N, before_NxV)
  return obs._replace(
    state_cosine=cosine(h_NxD, prev_NxD), state_change=change(h_NxD, prev_NxD)
  )


def statistics(
  logits_NxV: jax.Array,
  target_N: jax.Array,
  before_NxV: jax.Array | None = None,
) -> Observation:
  """What logits tell, each [N]; what only states tell is left blank.

  Args:
    logits_NxV: of a readout.
    target_N: the true next tokens, for `nll`.
    before_NxV: logits of the readout before, for `kl`; without it `kl` is +inf.
  """
  log_p_NxV = jax.nn.log_softmax(logits_NxV)
  p_NxV = jnp.exp(log_p_NxV)
  argmax_N = jnp.argmax(logits_NxV, axis=-1).astype(jnp.int32)
  # Two max-reductions are far cheaper than a top-k over the vocabulary.
  first_N = p_NxV.max(-1)
  rest_NxV = jnp.where(
    jnp.arange(p_NxV.shape[-1])[None] == argmax_N[:, None], 0.0, p_NxV
  )
  blank = observations.blank(first_N.shape)
  kl_N = blank.kl
  if before_NxV is not None:
    log_q_NxV = jax.nn.log_softmax(before_NxV)
    kl_N = (jnp.exp(log_q_NxV) * (log_q_NxV - log_p_NxV)).sum(-1)
    kl_N = jnp.maximum(kl_N, 0.0)  # rounding may leave it just below
  return blank._replace(
    nll=-jnp.take_along_axis(log_p_NxV, target_N[:, None], 1)[:, 0],
    argmax=argmax_N,
    max_prob=first_N,
    margin=first_N - rest_NxV.max(-1),
    entropy=jnp.clip(
      -(p_NxV * log_p_NxV).sum(-1) / jnp.log(float(p_NxV.shape[-1])), 0.0, 1.0
    ),
    kl=kl_N,
  )


def cosine(a_NxD: jax.Array, b_NxD: jax.Array) -> jax.Array:
  """Cosine of two states, [N] float32."""
  a_NxD = a_NxD.astype(jnp.float32)
  b_NxD = b_NxD.astype(jnp.float32)
  norms_N = jnp.linalg.norm(a_NxD, axis=-1) * jnp.linalg.norm(b_NxD, axis=-1)
  return jnp.clip((a_NxD * b_NxD).sum(-1) / (norms_N + 1e-12), -1.0, 1.0)


def change(h_NxD: jax.Array, before_NxD: jax.Array) -> jax.Array:
  """Length of the difference of two states by that of the earlier, [N]."""
  h_NxD = h_NxD.astype(jnp.float32)
  before_NxD = before_NxD.astype(jnp.float32)
  moved_N = jnp.linalg.norm(h_NxD - before_NxD, axis=-1)
  return moved_N / (jnp.linalg.norm(before_NxD, axis=-1) + 1e-12)


def _flat(x: jax.Array) -> jax.Array:
  return x.reshape(-1, x.shape[-1])


@functools.partial(jax.named_call, name='observe')
def observe(
  read: Read,
  previous: Read | None,
  target_BxT: jax.Array,
  w_VxD: Unembedding,
  before_VxD: Unembedding | None = None,
) -> Observation:
  """What the logits and the state of one readout tell, each [B, T] float32.

  Args:
    read: the readout.
    previous: the readout before; None for the first.
    target_BxT: the true next tokens.
    w_VxD: the unembedding.
    before_VxD: that of the readout before, to compare with its distribution (a
      second head); None = they are not compared.
  """
  w_VxD = placed(w_VxD)
  before_VxD = None if before_VxD is None else placed(before_VxD)
  shape = target_BxT.shape
  before = read if previous is None else previous
  if previous is None:
    before_VxD = None
  chunks = chunked(
    _flat(read.h_BxTxD),
    _flat(before.h_BxTxD),
    _flat(before.normed_BxTxD),
    _flat(read.normed_BxTxD),
    target_BxT.reshape(-1),
    vocab_size=w_VxD.shape[0],
  )

  def observe_chunk(chunk):
    return _observe(chunk, w_VxD, before_VxD)

  def whole(x: jax.Array) -> jax.Array:
    return joined(x, target_BxT.size).reshape(shape)

  obs = jax.tree.map(whole, jax.lax.map(observe_chunk, chunks))
  if previous is None:
    blank = observations.blank(shape)
    obs = obs._replace(
      state_cosine=blank.state_cosine, state_change=blank.state_change
    )
  return obs


def observe_states(read: Read, previous: Read | None) -> Observation:
  """What the states alone tell, each [B, T] float32; no head is evaluated."""
  obs = observations.blank(read.h_BxTxD.shape[:-1])
  if previous is None:
    return obs
  h_NxD = _flat(read.h_BxTxD)
  before_NxD = _flat(previous.h_BxTxD)
  shape = obs.nll.shape
  return obs._replace(
    state_cosine=cosine(h_NxD, before_NxD).reshape(shape),
    state_change=change(h_NxD, before_NxD).reshape(shape),
  )
