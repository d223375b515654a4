"""Routers: which tokens run a cell (Mixture-of-Depths, layer dropout).

A token that a router keeps out of a cell passes it as it came, and no token
sees it there. A router carries its own facts; a cell names it.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

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
    memory_BxTxM: float32, what later cells of a token shall know; None = as
      it was. It goes on for tokens that stopped: others may see them there.
  """

  runs_BxT: jax.Array
  weight_BxT: jax.Array | None = None
  loss_BxT: jax.Array | None = None
  taken: Taken | None = None
  memory_BxTxM: jax.Array | None = None


class Share(NamedTuple):
  """Which part of a training batch a cell is run on.

  Attributes:
    rows: of all rows.
    tokens: of the tokens of each of them.
  """

  rows: float = 1.0
  tokens: float = 1.0

  @property
  def of_batch(self) -> float:
    """Of all tokens of the batch."""
    return self.rows * self.tokens


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
      evaluation agree. Where there is a memory, that comes as well: the last
      one of the token's cells before, [B, T, M], zeros at first.
    flops: D -> FLOPs of one token.
    share: what part of a training batch runs the cell.
    memory: M, numbers that are kept of a token from cell to cell; 0 = none.
  """

  name: str
  init: Callable[[jax.Array, int], Any] | None
  route: Callable[..., Route]
  flops: Callable[[int], float]
  share: Share = Share()
  memory: int = 0


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

  def router(self, cell: Cell, grid: Grid) -> Router | None:
    """The router of a numbered cell of a segment; None = all tokens run it."""
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
  segment = [
    _routed(cell, routing, routing.router(numbered, grid))
    for cell, numbered in zip(grid.segment, grid.first, strict=True)
  ]
  return dataclasses.replace(grid, segment=tuple(segment))


def _routed(cell: Cell, routing: Routing, router: Router | None) -> Cell:
  if router is None:
    return cell
  need(
    not cell.reads,
    f'{routing.field} would let tokens pass layer {cell.block + 1}, which '
    f'combines {" and ".join(cell.reads)}: their sum would go on as it is; '
    'route other layers, or use another model.body',
  )
  return dataclasses.replace(cell, router=router.name)


# ------------------------------------------- what learned routers are made of


def times(x_BxTxD: jax.Array, kernel_DxO: jax.Array) -> jax.Array:
  """A linear map whose kernel is of unit size, [B, T, O].

  A step of Adam moves every entry alike; so it moves the result by a share of
  its size, however many there are.
  """
  flat_NxD = x_BxTxD.reshape(-1, x_BxTxD.shape[-1])
  product = flat_NxD @ kernel_DxO / math.sqrt(len(kernel_DxO))
  return product.reshape(*x_BxTxD.shape[:-1], -1)


def highest(score_BxT: jax.Array, share: float) -> tuple[jax.Array, jax.Array]:
  """The highest of each row: their places, in order, and who they are.

  Args:
    score_BxT: who comes before whom.
    share: of the tokens of a row, rounded up to M whole ones.

  Returns:
    token_BxM, and bool [B, T].
  """
  length = score_BxT.shape[1]
  _, token_BxM = jax.lax.top_k(score_BxT, math.ceil(share * length))
  is_BxMxT = token_BxM[..., None] == jnp.arange(length)[None, None]
  return jnp.sort(token_BxM, axis=1), is_BxMxT.any(1)


def undecided(says_BxT: jax.Array, chosen_BxT: jax.Array) -> jax.Array:
  """Binary cross-entropy of what a token says against who was chosen."""
  target_BxT = chosen_BxT.astype(jnp.float32)
  return optax.sigmoid_binary_cross_entropy(says_BxT, target_BxT)
