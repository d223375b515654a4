"""Routers: which tokens run a cell (Mixture-of-Depths, layer dropout).

A token that a router keeps out of a cell passes it as it came, and no token
sees it there. A router carries its own facts; a cell names it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from ease_jax.checks import need
from ease_jax.core.grid import Cell, Grid


class Taken(NamedTuple):
  """Tokens that a program runs alone: M of each of N rows, both static.

  Attributes:
    row_N: which rows, in order; None = all.
    token_NxM: which tokens of each, in order; None = all.
    seen_NxM: bool, which of them others may see; None = all.
  """

  row_N: jax.Array | None = None
  token_NxM: jax.Array | None = None
  seen_NxM: jax.Array | None = None

  def of(self, h_BxTxD: jax.Array) -> jax.Array:
    """Their states, [N, M, D]."""
    if self.row_N is not None:
      h_BxTxD = h_BxTxD[self.row_N]
    if self.token_NxM is None:
      return h_BxTxD
    return jnp.take_along_axis(h_BxTxD, self.token_NxM[..., None], 1)

  def into(self, h_BxTxD: jax.Array, new_NxMxD: jax.Array) -> jax.Array:
    """All states, those of these tokens replaced, [B, T, D]."""
    row_N = self.row_N
    if self.token_NxM is None:
      place = row_N
    else:
      if row_N is None:
        row_N = jnp.arange(len(h_BxTxD))
      place = row_N[:, None], self.token_NxM
    return h_BxTxD.at[place].set(
      new_NxMxD, indices_are_sorted=True, unique_indices=True
    )


class Route(NamedTuple):
  """What a router says of the tokens that come to a cell.

  Attributes:
    runs_BxT: bool, who runs the cell.
    weight_BxT: factor on what the cell adds to a state; None = 1.
    loss_BxT: what the router has to learn, nats; None = nothing.
    taken: in training, a number of tokens known beforehand that holds all who
      run, so that the others cost nothing; None = the cell is run on all
      tokens, and masked.
  """

  runs_BxT: jax.Array
  weight_BxT: jax.Array | None = None
  loss_BxT: jax.Array | None = None
  taken: Taken | None = None


class Share(NamedTuple):
  """Which part of a training batch a cell is run on.

  Attributes:
    rows: of all rows.
    tokens: of the tokens of each of them.
  """

  rows: float = 1.0
  tokens: float = 1.0


@dataclasses.dataclass(frozen=True)
class Router:
  """Who runs a cell.

  Attributes:
    name: as cells call it.
    init: (key, D) -> parameters of one block's router, a tree of arrays;
      None = it has none.
    route: (parameters, h [B, T, D], position [B, T], key) -> `Route`. The key
      is None except in training: then the route may draw or look at other
      tokens; otherwise it depends on the token alone, so that decoding and
      evaluation agree.
    flops: D -> FLOPs of one token.
    share: what part of a training batch runs the cell.
  """

  name: str
  init: Callable[[jax.Array, int], Any] | None
  route: Callable[[Any, jax.Array, jax.Array, jax.Array | None], Route]
  flops: Callable[[int], float]
  share: Share = Share()


NONE = 'none'  # the routing that puts no routers anywhere
ROUTERS: dict[str, Router] = {}


def register(router: Router) -> Router:
  """Makes a router known by its name to the cells of a schedule."""
  ROUTERS[router.name] = router
  return router


class Routing(Protocol):
  """Routers that a config puts on the cells of any body; frozen."""

  @property
  def field(self) -> str:
    """The field of the config that asks for it, and its value."""
    ...

  def router(self, block: int, num_blocks: int) -> Router | None:
    """The router of a block's cells; None = all tokens run them."""
    ...


def routed(grid: Grid, routing: Routing) -> Grid:
  """A grid with the routers of a config on the cells of its segment.

  Raises:
    ConfigError: it has routers of its own, or there would be one where states
      are combined.
  """
  need(
    not grid.routed,
    f'{routing.field} does not fit this model.body, whose cells have routers '
    'of their own; leave it at its default',
  )
  segment = [_routed(cell, routing, grid.num_blocks) for cell in grid.segment]
  return dataclasses.replace(grid, segment=tuple(segment))


def _routed(cell: Cell, routing: Routing, num_blocks: int) -> Cell:
  router = routing.router(cell.block, num_blocks)
  if router is None:
    return cell
  need(
    not cell.reads,
    f'{routing.field} would let tokens pass layer {cell.block + 1}, which '
    f'combines {" and ".join(cell.reads)}: their sum would go on as it is; '
    'route other layers, or use another model.body',
  )
  return dataclasses.replace(cell, router=router.name)
