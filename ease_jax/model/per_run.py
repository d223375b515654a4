"""What blocks that run again have of their own in each run.

LowRank, for W x of each of a block's matrices (2410.20672, 2511.08577):

  W x + B_j A_j x  in run j > 0, W x in the first;  B_j = 0 at first

Film, for each branch of a block (2602.11451), in a run at time t that makes a
step dt of the whole way:

  c = MLP(sines(t)) + MLP(sines(dt)),  (g, s) = G silu(c),  G = 0 at first
  h <- h + (1 + g) branch(norm(h) (1 + s))

Both leave an untrained model as it is without. A run beyond those trained does
as the last of them, but in models that are elastic: there all runs together
make the whole way, however many.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ease_jax.core.flops import OwnCost, low_rank_flops
from ease_jax.core.grid import Cell, Grid
from ease_jax.core.spec import ModelConfig
from ease_jax.model.layers import Linear, OfRuns
from ease_jax.model.own import PLAIN, Own, first_products, product
from ease_jax.model.walk import Leap, Run

BRANCHES = ('attention', 'mlp')
FASTEST = 1000.0  # radians that the fastest of all sines makes in a whole way


class PerRun(NamedTuple):
  """A way for runs to differ.

  Attributes:
    block: module of each block; called with a run, or with what the clock
      makes of it.
    clock: module of the model, called with a run, once for all blocks; None =
      blocks are told the run.
    flops: (config, run) -> what a block takes more in a run.
  """

  block: OfRuns
  clock: Callable[[ModelConfig], nn.Module] | None = None
  flops: Callable[[ModelConfig, int], OwnCost] | None = None


class LowRanks(nn.Module):
  """Products of a low rank beside all matrices of a block, but in run 0."""

  cfg: ModelConfig

  def setup(self):
    self.runs = [
      self.param(f'run_{run}', first_products, self.cfg, self.cfg.options.rank)
      for run in range(1, self.cfg.trained_runs)
    ]

  def __call__(self, run: Run) -> Own:
    """Of a run, which may be known only when the program runs."""
    last = len(self.runs)
    if isinstance(run, int | np.integer):
      products = self.runs[min(run, last) - 1]
      return PLAIN.beside(products, self.cfg.dtype) if run else PLAIN

    none = jax.tree.map(jnp.zeros_like, self.runs[0])
    number = jnp.minimum(run, last)

    def chosen(*of_runs: jax.Array) -> jax.Array:
      return jnp.stack(of_runs)[number]

    products = jax.tree.map(chosen, none, *self.runs)
    return PLAIN.beside(products, self.cfg.dtype)


def _low_rank_cost(cfg: ModelConfig, run: int) -> OwnCost:
  if run == 0:
    return OwnCost()
  rank = cfg.options.rank
  block = low_rank_flops(cfg, rank)
  return OwnCost(block, low_rank_flops(cfg, rank, 'key', 'value'))


class Clock(nn.Module):
  """What all blocks are told of a run: c, [D] float32."""

  cfg: ModelConfig

  @nn.compact
  def __call__(self, run: Run | Leap) -> jax.Array:
    """Of a run, which starts at run / S and makes 1 / S of the way.

    S is the number of runs that were trained, or, where fewer can make the
    whole way, the number that is run.
    """
    c = self.cfg
    if not isinstance(run, Leap):
      num = c.segments if c.options.elastic else c.trained_runs
      run = Leap(jnp.minimum(run, num - 1) / num, jnp.float32(1 / num))
    return self._seen('time', run.start) + self._seen('step', run.step)

  def _seen(self, name: str, time: jax.Array) -> jax.Array:
    dim = self.cfg.dim
    inner_D = Linear(dim, jnp.float32, name=f'{name}_in')(sines(time, dim))
    return Linear(dim, jnp.float32, name=f'{name}_out')(nn.silu(inner_D))


def sines(time: jax.Array, dim: int) -> jax.Array:
  """Sines and cosines of a time in [0, 1], [D].

  Their frequencies reach from a radian in the whole way to FASTEST. (Those of
  diffusion models, 1 and below, are for times that count steps.)
  """
  half = dim // 2
  angle = time * FASTEST ** (jnp.arange(half, dtype=jnp.float32) / half)
  return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)])


class Film(nn.Module):
  """How a block scales what its branches are given and what they add."""

  cfg: ModelConfig

  @nn.compact
  def __call__(self, told_D: jax.Array) -> Own:
    dim = self.cfg.dim
    shape = dim, 2 * len(BRANCHES) * dim
    zeros = nn.initializers.zeros
    kernel = self.param('kernel', zeros, shape, jnp.float32)
    factor_D = 1 + product(nn.silu(told_D), kernel)
    factor_NxD = factor_D.reshape(-1, dim).astype(self.cfg.dtype)
    gains, scales = jnp.split(factor_NxD, 2)
    return Own(
      scale=dict(zip(BRANCHES, scales, strict=True)),
      gain=dict(zip(BRANCHES, gains, strict=True)),
    )


NOTHING = 'none'
LOW_RANK = 'lora'
FILM = 'film'
PER_RUN: dict[str, PerRun | None] = {
  NOTHING: None,
  FILM: PerRun(Film, Clock),
  LOW_RANK: PerRun(LowRanks, flops=_low_rank_cost),
}


def own_costs(
  per_run: PerRun | None, cfg: ModelConfig, grid: Grid, any_run: bool
) -> dict[Cell, OwnCost]:
  """What cells have beside the matrices of their blocks.

  A program for any run multiplies in the first one too, where a product is
  zero. What is made once for a run and not for each token is left out.

  Args:
    per_run: how runs differ.
    cfg: a model's shape.
    grid: its cells.
    any_run: a program is any run even where the grid has one.
  """
  own = {
    cell: _lora_cost(cfg)
    for cell in (*grid.cells, *grid.tail)
    if cfg.lora_rank and not cell.aside
  }
  if per_run is None or per_run.flops is None:
    return own

  last = cfg.trained_runs - 1
  for cell in grid.cells[len(grid.prelude) :]:
    here = per_run.flops(cfg, min(cell.run, last))
    scanned = any_run or grid.segments > 1
    trained = per_run.flops(cfg, last) if scanned else here
    lora = own.get(cell, OwnCost())
    own[cell] = OwnCost(
      lora.block + here.block,
      lora.fill + here.fill,
      lora.trained + trained.block,
      lora.learned,
    )
  return own


def _lora_cost(cfg: ModelConfig) -> OwnCost:
  """Of the products that a block has in all its runs."""
  rank = cfg.lora_rank
  block = low_rank_flops(cfg, rank)
  fill = low_rank_flops(cfg, rank, 'key', 'value')
  return OwnCost(block, fill, trained=block, learned=block)
