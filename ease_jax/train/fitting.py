"""Maps of readouts in closed form: ridge regression on the last state.

The head knows the states of the last layer. A map that takes the state of an
earlier one as near to it as a linear map can needs no gradient, no head and one
pass over some text (as in Yom Din et al. 2303.09435). States are compared at
size 1: the norm before the head forgets how large they are, and few tokens
would decide otherwise.
"""

import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from ease_jax.core.freeze import ADAPTER
from ease_jax.core.spec import MAP
from ease_jax.data.pipeline import Batch, BatchIterator
from ease_jax.model import Body, Params
from ease_jax.model.adapters import size

# Of each readout with a map: sums of x x^T and of x y^T, [R - 1, D, D].
Moments = tuple[jax.Array, jax.Array]


def fitted(
  model: Body,
  params: Params,
  batches: BatchIterator,
  *,
  tokens: int,
  ridge: float,
) -> Params:
  """The same parameters with maps that were fitted.

  Args:
    model: a body whose readouts have maps.
    params: its parameters; the maps among them are not read.
    batches: of the training text.
    tokens: at least so many are read.
    ridge: weight of the squared distance of a map from the identity, beside
      the mean squared error of a number of the state.
  """
  dim = model.cfg.dim
  own = model.grid.per_segment - 1
  xx_RxDxD = np.zeros((own, dim, dim))
  xy_RxDxD = np.zeros((own, dim, dim))
  seen = 0.0

  for batch in _until(batches, tokens):
    xx, xy = _moments(params, batch, model=model)
    xx_RxDxD += np.asarray(xx, np.float64)
    xy_RxDxD += np.asarray(xy, np.float64)
    seen += float(np.sum(batch['mask'])) * model.grid.segments

  params = dict(params)
  for r in range(own):
    group = params[f'{ADAPTER}{r}']
    more_DxD = _ridge(xx_RxDxD[r] / seen, xy_RxDxD[r] / seen, ridge)
    kernel = jnp.asarray(more_DxD, jnp.float32)
    params[f'{ADAPTER}{r}'] = group | {MAP: {'linear': {'kernel': kernel}}}
  return params


def _ridge(xx_DxD: np.ndarray, xy_DxD: np.ndarray, ridge: float) -> np.ndarray:
  """What to add to the identity: argmin |x + x W - y|^2 + ridge |W|^2."""
  identity = np.eye(len(xx_DxD))
  return np.linalg.solve(xx_DxD + ridge * identity, xy_DxD - xx_DxD)


def _until(batches: BatchIterator, tokens: int) -> Iterator[Batch]:
  """The first batches that have so many tokens together."""
  seen = 0

  def wants_more(batch: Batch) -> bool:
    nonlocal seen
    is_short = seen < tokens
    seen += int(np.sum(batch['mask']))
    return is_short

  return itertools.takewhile(wants_more, batches)


@functools.partial(jax.jit, static_argnames=('model',))
def _moments(params: Params, batch: Batch, *, model: Body) -> Moments:
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
  xx_R = []
  xy_R = []
  for r in range(per_segment - 1):
    runs = [unit(h_BxTxD) for h_BxTxD in states[r::per_segment]]
    xx_R.append(sum(product(x_BxTxD, x_BxTxD) for x_BxTxD in runs))
    xy_R.append(sum(product(x_BxTxD, last_BxTxD) for x_BxTxD in runs))
  return jnp.stack(xx_R), jnp.stack(xy_R)
