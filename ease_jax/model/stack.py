"""The stack: a decoder-only Transformer whose layers can be read out."""

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


def layers(cfg: ModelConfig) -> tuple[Cell, ...]:
  """One cell per layer, with the config's readouts behind them."""
  readout = {layer: r for r, layer in enumerate(readouts(cfg))}
  return tuple(
    Cell(block=i, readout=readout.get(i + 1)) for i in range(cfg.num_layers)
  )


STACK = Kind('stack', schedule)
