"""Mixture-of-Depths (Raposo et al. 2404.02258): tokens choose their layers.

  r = w . norm(h);  h <- h + g(r) (f(h) - h) for those who run f, h for others

In training the k = capacity * T tokens of a row with the highest r run (expert
choice): f is run on them alone, and they see each other alone. Top-k looks at
later tokens, so it decides nothing anywhere else: there a token runs where a
number of its own is above 0, which has learned to say who was chosen. The gate
g multiplies in training and in inference.

What differs from the paper: the router sees the state at unit size, so that
its gate does not grow with the states, and g may be a sigmoid.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated

import jax
import jax.numpy as jnp

from ease_jax.checks import (
  Count,
  Depth,
  NotNegative,
  OneOf,
  Range,
  ReadIf,
  check_fields,
  need,
)
from ease_jax.core.grid import Cell, Grid
from ease_jax.core.routers import (
  Route,
  Router,
  Share,
  Taken,
  highest,
  times,
  undecided,
)
from ease_jax.core.scaling import unit_size

NAME = 'mod'
AUXILIARY = 'auxiliary'
PREDICTOR = 'predictor'
TOKEN = 'token'
CHOICES = (AUXILIARY, PREDICTOR, TOKEN)


def _itself(r: jax.Array) -> jax.Array:
  return r


GATES: dict[str, Callable[[jax.Array], jax.Array]] = {
  'linear': _itself,
  'sigmoid': jax.nn.sigmoid,
}


@dataclasses.dataclass(frozen=True)
class MoDSpec:
  """Section `model.mod`: the routing of Mixture-of-Depths.

  Attributes:
    capacity: share of a row's tokens that run a routed layer in training,
      rounded up to whole tokens. 1 = there is nothing to choose: no router.
    every: a router stands on every so many layers, at the last of them.
    choice: what tells a token at evaluation and in decoding whether it runs.
      auxiliary: r itself, trained by binary cross-entropy to be above 0 for
      the chosen. predictor: a small network, trained likewise, that leaves the
      model as it is. token: r itself, in training too: no more than k tokens
      run, fewer where fewer have an r above 0, and their share is trained
      towards the capacity.
    gate: of GATES, what r multiplies the layer with.
    loss_weight: of what the router learns.
    predictor_dim: width of the predictor.
  """

  capacity: Annotated[float, Range(0, 1, above=True)]
  every: Depth
  choice: Annotated[str, OneOf(CHOICES)]
  gate: Annotated[str, OneOf(GATES)]
  loss_weight: NotNegative
  predictor_dim: Annotated[Count, ReadIf('choice', (PREDICTOR,))]

  def __post_init__(self):
    check_fields(f'model.{NAME}', self)

  @property
  def field(self) -> str:
    """The field of the config that asks for it, and its value."""
    return f'model.router={NAME}'

  def router(self, cell: Cell, grid: Grid) -> Router | None:
    """The router of a cell; None = all tokens run it."""
    if self.capacity == 1:
      return None
    need(
      self.every <= grid.num_blocks,
      f'model.{NAME}.every={self.every} is more than the {grid.num_blocks} '
      'layers of the model, so that none has a router; lower it',
    )
    if (cell.block + 1) % self.every:
      return None
    return Router(
      NAME,
      functools.partial(_init, self),
      functools.partial(_route, self),
      functools.partial(_flops, self),
      Share(tokens=self.capacity),
    )


Params = dict[str, dict[str, jax.Array]]


def _init(spec: MoDSpec, key: jax.Array, dim: int) -> Params:
  """Of unit size each, whatever their fan-in: see `times`."""
  router_key, up_key, down_key = jax.random.split(key, 3)
  params = {'router': {'kernel': jax.random.normal(router_key, (dim, 1))}}
  if spec.choice == PREDICTOR:
    width = spec.predictor_dim
    params['up'] = {'kernel': jax.random.normal(up_key, (dim, width))}
    params['down'] = {'kernel': jax.random.normal(down_key, (width, 1))}
  return params


def _flops(spec: MoDSpec, dim: int) -> float:
  router = 2.0 * dim
  if spec.choice != PREDICTOR:
    return router
  return router + 2.0 * dim * spec.predictor_dim + 2.0 * spec.predictor_dim


def _route(
  spec: MoDSpec,
  params: Params,
  h_BxTxD: jax.Array,
  position_BxT: jax.Array,
  key: jax.Array | None,
) -> Route:
  del position_BxT
  x_BxTxD = unit_size(h_BxTxD)
  r_BxT = times(x_BxTxD, params['router']['kernel'])[..., 0]
  says_BxT = r_BxT
  if spec.choice == PREDICTOR:
    says_BxT = _predicted(params, jax.lax.stop_gradient(x_BxTxD))

  weight_BxT = GATES[spec.gate](r_BxT)
  if key is None:
    return Route(says_BxT > 0, weight_BxT)

  token_BxM, runs_BxT = highest(r_BxT, spec.capacity)
  seen_BxM = None
  if spec.choice == TOKEN:
    runs_BxT &= r_BxT > 0
    seen_BxM = jnp.take_along_axis(runs_BxT, token_BxM, 1)
    loss_BxT = _unbalanced(r_BxT, spec.capacity)
  else:
    loss_BxT = undecided(says_BxT, runs_BxT)
  return Route(
    runs_BxT,
    weight_BxT,
    spec.loss_weight * loss_BxT,
    Taken(token_NxM=token_BxM, seen_NxM=seen_BxM),
  )


def _unbalanced(r_BxT: jax.Array, share: float) -> jax.Array:
  """How far the expected share of a row is from another one, as a KL."""
  own_Bx1 = jax.nn.sigmoid(r_BxT).mean(1, keepdims=True)
  kl_Bx1 = share * jnp.log(share / own_Bx1)
  kl_Bx1 += (1 - share) * jnp.log((1 - share) / (1 - own_Bx1))
  return jnp.broadcast_to(kl_Bx1, r_BxT.shape)


def _predicted(params: Params, x_BxTxD: jax.Array) -> jax.Array:
  hidden = jax.nn.gelu(times(x_BxTxD, params['up']['kernel']))
  return times(hidden, params['down']['kernel'])[..., 0]
