"""What early readouts, cheap heads and signals get from some text, untrained.

Maps: the head knows the states of the last layer. A map that takes the state
of an earlier one as near to it as a linear map can needs no gradient, no head
and one pass over some text (as in Yom Din et al. 2303.09435). States are
compared at size 1: the norm before the head forgets how large they are, and few
tokens would decide otherwise.

The screen: the factor of a given rank whose logits are nearest to all logits of
that text, by the singular values of their product. A sum of exponentials of
rough logits is too small, as those of what they miss have a mean above 1; one
number added to them all gives tokens that are not looked at closely the
probability back that they have together.
"""

import bisect
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from ease_jax.core.freeze import ADAPTER, FREQUENT, SCREEN
from ease_jax.core.spec import MAP, ModelConfig
from ease_jax.data.pipeline import Batch, BatchIterator
from ease_jax.model import Body, Params
from ease_jax.model.adapters import size
from ease_jax.model.unembedding import Screened, found, logits, replaced, table

Array = jax.Array | np.ndarray

SMALL = 1e-6  # keeps a root of moments invertible, relative to their mean
SHIFTS = np.linspace(-50.0, 50.0, 100_001)  # of which one is the best
AT_ONCE = 64  # states of which all logits are in memory
SHIFT_TOKENS = 4096  # enough for one number; each of them costs two heads


class Moments(NamedTuple):
  """Means of products of states, or sums of them.

  Attributes:
    xx_RxDxD: of each early readout's states with themselves, at size 1.
    xy_RxDxD: with those of the last one.
    nn_DxD: of the last one's states as the head sees them, with themselves.
  """

  xx_RxDxD: Array
  xy_RxDxD: Array
  nn_DxD: Array


def fitted(
  model: Body,
  params: Params,
  batches: BatchIterator,
  *,
  tokens: int,
  ridge: float,
) -> Params:
  """The same parameters with maps and a screen that were fitted.

  Args:
    model: a body whose readouts have maps, or whose head is screened.
    params: its parameters; what is fitted is not read.
    batches: of the training text.
    tokens: at least so many are read.
    ridge: weight of the squared distance of a map from the identity, beside
      the mean squared error of a number of the state.
  """
  text = _taken(batches, tokens)
  params = dict(params)

  if model.cfg.frequent_tokens:
    chosen_C = _most_frequent(text, model.cfg)
    params[FREQUENT] = jnp.asarray(chosen_C, jnp.float32)
  rank = model.cfg.screen_rank
  if not rank and MAP not in model.cfg.readout_adapters:
    return params

  means = _means(model, params, text)

  if MAP in model.cfg.readout_adapters:
    for r in range(model.grid.per_segment - 1):
      more_DxD = _ridge(means.xx_RxDxD[r], means.xy_RxDxD[r], ridge)
      kernel = jnp.asarray(more_DxD, jnp.float32)
      group = params[f'{ADAPTER}{r}']
      params[f'{ADAPTER}{r}'] = group | {MAP: {'linear': {'kernel': kernel}}}

  if rank:
    w_VxD = table(model.bind({'params': params}).unembedding())
    screen = _screen(w_VxD, means.nn_DxD, rank)
    some = _taken(iter(text), min(tokens, SHIFT_TOKENS))
    shift = _shift(model, params | {SCREEN: screen}, some)
    params[SCREEN] = screen | {'shift': jnp.float32(shift)}
  return params


def _taken(batches: Iterator[Batch], tokens: int) -> list[Batch]:
  """The first batches that have so many tokens together."""
  text = []
  seen = 0
  while seen < tokens:
    text.append(next(batches))
    seen += int(np.sum(text[-1]['mask']))
  return text


def _most_frequent(text: Sequence[Batch], cfg: ModelConfig) -> np.ndarray:
  """The tokens that follow most often, the first of them first, [C]."""
  count_V = np.zeros(cfg.vocab_size, np.int64)
  for batch in text:
    seen_N = batch['targets'][batch['mask'] > 0]
    count_V += np.bincount(seen_N, minlength=cfg.vocab_size)
  return np.argsort(-count_V, kind='stable')[: cfg.frequent_tokens]


def _ridge(xx_DxD: Array, xy_DxD: Array, ridge: float) -> np.ndarray:
  """What to add to the identity: argmin |x + x W - y|^2 + ridge |W|^2."""
  identity = np.eye(len(xx_DxD))
  return np.linalg.solve(xx_DxD + ridge * identity, xy_DxD - xx_DxD)


def _screen(w_VxD: jax.Array, nn_DxD: Array, rank: int) -> dict[str, jax.Array]:
  """argmin |n W^T - n A B^T|^2 over all A [D, R] and B [V, R].

  With the moments L L^T that is the singular value decomposition of L^T W^T.
  """
  dim = len(nn_DxD)
  small = SMALL * np.trace(nn_DxD) / dim
  root_DxD = np.linalg.cholesky(nn_DxD + small * np.eye(dim))
  w_VxD = w_VxD.astype(jnp.float32)
  ww_DxD = np.asarray(jnp.matmul(w_VxD.T, w_VxD, precision='highest'))

  _, vectors_DxD = np.linalg.eigh(root_DxD.T @ ww_DxD @ root_DxD)
  largest_DxR = vectors_DxD[:, -rank:]
  into_DxR = np.linalg.solve(root_DxD.T, largest_DxR)
  back_DxR = jnp.asarray(root_DxD @ largest_DxR, jnp.float32)
  return {
    'into': jnp.asarray(into_DxR, jnp.float32),
    'out_of': jnp.matmul(w_VxD, back_DxR, precision='highest'),
    'shift': jnp.float32(0.0),
  }


class Masses(NamedTuple):
  """Logarithms of sums of exponentials of logits, [B, T] each.

  Attributes:
    near: over the tokens that are looked at closely.
    rough: over all others, as the screen has them.
    true: over the same ones, as the whole head has them.
  """

  near: Array
  rough: Array
  true: Array


def _shift(model: Body, params: Params, text: Sequence[Batch]) -> float:
  """Gives tokens that stay rough the probability that they have together.

  Args:
    model: its head is screened.
    params: with a screen whose shift is not read.
    text: what the mean is over.
  """
  masks = [batch['mask'] > 0 for batch in text]
  masses = [_masses(params, batch, model=model) for batch in text]
  near_N, rough_N, true_N = (
    np.concatenate([np.asarray(x, float)[m] for x, m in zip(part, masks)])
    for part in zip(*masses)
  )
  wanted = special.expit(true_N - near_N).mean()
  if wanted == 0:  # all tokens are looked at
    return 0.0

  def too_much(shift: float) -> float:
    return special.expit(rough_N + shift - near_N).mean() - wanted

  place = bisect.bisect_left(SHIFTS, 0.0, key=too_much)
  return float(SHIFTS[min(place, len(SHIFTS) - 1)])


@functools.partial(jax.jit, static_argnames=('model',))
def _masses(params: Params, batch: Batch, *, model: Body) -> Masses:
  bound = model.bind({'params': params})
  h_BxTxD = bound.states(jnp.asarray(batch['tokens']))[-1]
  n_BxTxD = bound.normed(model.grid.num_readouts - 1, h_BxTxD)
  head = bound.head()
  assert isinstance(head, Screened)

  def of(n_D: jax.Array) -> Masses:
    looked = found(n_D[None], head)
    whole_NxV = logits(n_D[None], head.exact)
    rows = (
      looked.exact_NxC,
      replaced(looked.rough_NxV, looked.id_NxC, -jnp.inf),
      replaced(whole_NxV, looked.id_NxC, -jnp.inf),
    )
    return Masses(*(jax.nn.logsumexp(row) for row in rows))

  masses_N = jax.lax.map(
    of, n_BxTxD.reshape(-1, model.cfg.dim), batch_size=AT_ONCE
  )
  return jax.tree.map(lambda x: x.reshape(batch['mask'].shape), masses_N)


def _means(model: Body, params: Params, text: Sequence[Batch]) -> Moments:
  """Moments over all tokens of a text."""
  total: Moments | None = None
  for batch in text:
    sums = _sums(params, batch, model=model)
    doubles = jax.tree.map(functools.partial(np.asarray, dtype=float), sums)
    total = doubles if total is None else jax.tree.map(np.add, total, doubles)

  assert total is not None
  seen = sum(int(np.sum(batch['mask'])) for batch in text)
  states = seen * model.grid.segments
  return Moments(
    total.xx_RxDxD / states, total.xy_RxDxD / states, total.nn_DxD / seen
  )


@functools.partial(jax.jit, static_argnames=('model',))
def _sums(params: Params, batch: Batch, *, model: Body) -> Moments:
  bound = model.bind({'params': params})
  per_segment = model.grid.per_segment
  states = bound.states(jnp.asarray(batch['tokens']))

  def unit(h_BxTxD: jax.Array) -> jax.Array:
    h_BxTxD = h_BxTxD.astype(jnp.float32)
    return h_BxTxD / size(h_BxTxD, model.cfg.block.epsilon)

  def product(x_BxTxD: jax.Array, y_BxTxD: jax.Array) -> jax.Array:
    x_BxTxD *= batch['mask'][..., None]
    return jnp.einsum('bti,btj->ij', x_BxTxD, y_BxTxD, precision='highest')

  last_BxTxD = unit(states[-1])
  dim = model.cfg.dim
  none = jnp.zeros((0, dim, dim))
  xx_R = []
  xy_R = []
  for r in range(per_segment - 1):
    runs = [unit(h_BxTxD) for h_BxTxD in states[r::per_segment]]
    xx_R.append(sum(product(x_BxTxD, x_BxTxD) for x_BxTxD in runs))
    xy_R.append(sum(product(x_BxTxD, last_BxTxD) for x_BxTxD in runs))

  normed_BxTxD = bound.normed(model.grid.num_readouts - 1, states[-1])
  normed_BxTxD = normed_BxTxD.astype(jnp.float32)
  return Moments(
    jnp.stack(xx_R) if xx_R else none,
    jnp.stack(xy_R) if xy_R else none,
    product(normed_BxTxD, normed_BxTxD),
  )
