"""Layer dropout: rows of a training batch skip layers (LayerSkip, 2404.16710).

  h <- h + f(h) with probability 1 - p, h otherwise;  p = S(t) * D(l) * p_max

A row skips as a whole. How many of a batch skip a layer is p of them, rounded
to whole rows and known before; which ones, is drawn anew in each update. So
the others are run alone, and an update is as much cheaper as rows are fewer.
Evaluation and decoding know of none of it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ease_jax.checks import need
from ease_jax.core.grid import Cell, Grid
from ease_jax.core.routers import Route, Router, Share, Taken

NAME = 'layer_dropout'
PHASES = 4  # a step is compiled for each, so there are only a few


def _exponential(place: float) -> float:
  return math.expm1(place * math.log(2))


def _uniform(place: float) -> float:
  del place
  return 1.0


def _falling(place: float) -> float:
  return _exponential(1 - place)


# D(l): share of the highest p, from the first layer (0) to the last (1).
SHAPES: dict[str, Callable[[float], float]] = {
  'exponential': _exponential,
  'uniform': _uniform,
}
# S(t): the same, from the start of training to its end. LayerSkip raises p
# from scratch; falling is the other way round.
SCHEDULES: dict[str, Callable[[float], float]] = {
  'constant': _uniform,
  'rising': _exponential,
  'falling': _falling,
}


@dataclasses.dataclass(frozen=True)
class LayerDropout:
  """The routing of layer dropout in a phase of training.

  Attributes:
    most: S(t) * p_max, the highest p of a layer.
    shape: of SHAPES, p of the others.
    rows: of a batch that is run at once.
  """

  most: float
  shape: str
  rows: int

  @property
  def field(self) -> str:
    """The field of the config that asks for it."""
    return f'train.{NAME}'

  def skips(self, block: int, num_blocks: int) -> int:
    """Rows that skip a block."""
    place = block / max(num_blocks - 1, 1)
    return round(self.most * SHAPES[self.shape](place) * self.rows)

  def router(self, cell: Cell, grid: Grid) -> Router | None:
    """The router of a cell; None = all rows run it."""
    skips = self.skips(cell.block, grid.num_blocks)
    if skips == 0:
      return None
    stays = self.rows - skips
    need(
      stays > 0,
      f'{self.field} leaves none of the {self.rows} rows that are run at once '
      f'(train.batch_size / train.accumulate) to layer {cell.block + 1}; lower '
      'it, or raise the rows',
    )
    return Router(
      NAME,
      None,
      functools.partial(_route, stays),
      _free,
      Share(rows=stays / self.rows),
    )


def _free(dim: int) -> float:
  del dim
  return 0.0


def _route(
  stays: int,
  params: None,
  h_BxTxD: jax.Array,
  position_BxT: jax.Array,
  key: jax.Array | None,
) -> Route:
  del params, position_BxT
  batch, length, _ = h_BxTxD.shape
  if key is None:
    return Route(jnp.ones((batch, length), bool))

  row_N = jnp.sort(jax.random.permutation(key, batch)[:stays])
  stays_B = jnp.zeros(batch, bool).at[row_N].set(True)
  runs_BxT = jnp.broadcast_to(stays_B[:, None], (batch, length))
  return Route(runs_BxT, taken=Taken(row_N))
