"""What the pieces of a body cost: blocks, streams, routers, single runs."""

from collections.abc import Callable

from ease_jax.core import costs
from ease_jax.core.context import Context
from ease_jax.core.costs import CostModel
from ease_jax.core.grid import Cell, Grid
from ease_jax.core.routers import Router
from ease_jax.core.spec import ModelConfig
from ease_jax.model.kind import Kind
from ease_jax.model.per_run import own_costs


def prices(
  cfg: ModelConfig,
  kind: Kind,
  grid: Grid,
  router: Callable[[Cell], Router],
  context: float | Context,
  any_run: bool,
) -> CostModel:
  """The prices of a body's pieces.

  Args:
    cfg: its shape.
    kind: of body.
    grid: its cells.
    router: of a cell that has one.
    context: mean number of keys that a token sees.
    any_run: one program is any run, even if this is one alone.
  """
  streams = kind.streams(cfg, parent=None)  # bare ones
  extra: dict[Cell, float] = {}
  for cell in (*grid.cells, *grid.tail):
    flops = streams.flops(cell) if cell.reads else 0.0
    if cell.router is not None:
      flops += router(cell).flops(cfg.dim)
    extra[cell] = flops

  shares = {cell: router(cell).share for cell in grid.cells if cell.router}
  own = own_costs(kind.per_run(cfg), cfg, grid, any_run)
  return costs.cost_model(cfg, grid, context, extra, shares, own)
