"""Routers: which tokens run a cell (Mixture-of-Depths, layer dropout).

A token that a router keeps out of a cell passes it as it came, and no token
sees it there. A router carries its own facts; a cell names it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Route(NamedTuple):
  """What a router says of the tokens that come to a cell.

  Attributes:
    runs_BxT: bool, who runs the cell.
    weight_BxT: factor on what the cell adds to a state; None = 1.
    loss_BxT: what the router has to learn, nats; None = nothing.
  """

  runs_BxT: jax.Array
  weight_BxT: jax.Array | None = None
  loss_BxT: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Router:
  """Who runs a cell.

  Attributes:
    name: as cells call it.
    init: (key, D) -> parameters of one cell's router, a tree of arrays that
      may be empty.
    route: (parameters, h [B, T, D], position [B, T], key) -> `Route`. The key
      is None except in training: then the route may draw or look at other
      tokens; otherwise it depends on the token alone, so that decoding and
      evaluation agree.
    flops: D -> FLOPs of one token.
  """

  name: str
  init: Callable[[jax.Array, int], Any]
  route: Callable[[Any, jax.Array, jax.Array, jax.Array | None], Route]
  flops: Callable[[int], float]


ROUTERS: dict[str, Router] = {}


def register(router: Router) -> Router:
  """Makes a router known by its name to cells."""
  ROUTERS[router.name] = router
  return router
