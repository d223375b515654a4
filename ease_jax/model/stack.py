"""The stack: a decoder-only Transformer whose layers can be read out.

The same block may stand in several places (`model.blocks`), as in 0 1 2 3 2 3 4
5 (parameter-golf): it runs again, with keys and values of each place.
"""

from collections.abc import Sequence

from ease_jax.checks import need
from ease_jax.core.grid import Cell, Grid
from ease_jax.core.spec import ModelConfig
from ease_jax.model.kind import Kind


def readouts(cfg: ModelConfig) -> tuple[int, ...]:
  """Layers that can be read, counted from 1; none named means all."""
  return cfg.readouts or tuple(range(1, cfg.num_layers + 1))


def schedule(cfg: ModelConfig) -> Grid:
  """Layers on each other; S = 1, nothing is carried."""
  need(
    cfg.segments == 1,
    'model.body=stack has no state to carry through model.segments='
    f'{cfg.segments}; use model.body=refine, or model.segments=1',
  )
  return Grid(layers(cfg))


def layers(
  cfg: ModelConfig, blocks: Sequence[int] | None = None
) -> tuple[Cell, ...]:
  """One cell per layer, with the config's readouts behind them.

  Args:
    cfg: a model's shape.
    blocks: whose parameters each layer uses; None = those the config names.
  """
  if blocks is None:
    blocks = cfg.blocks or range(cfg.num_layers)
  readout = {layer: r for r, layer in enumerate(readouts(cfg))}
  return tuple(
    Cell(block, readout=readout.get(layer))
    for layer, block in enumerate(blocks, 1)
  )


STACK = Kind('stack', schedule, lists_blocks=True)
