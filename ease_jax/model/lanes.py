"""Lanes: several sums of all runs' results, mixed anew in each run.

Hyper-connections between the runs of tied layers (iso-depth scaling,
2604.21106). N lanes l begin as the input; run j has numbers of its own,

  s = norm(core(sum_i a_j[i] l_i)),  l <- M_j l + b_j s,

and what is read or goes on is the sum of the lanes. At first a run reads one
lane, the lanes in turn, M is the identity and b is one: every run adds to all.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ease_jax.core.grid import Cell
from ease_jax.core.spec import ModelConfig
from ease_jax.model.layers import RMSNorm
from ease_jax.model.streams import Input
from ease_jax.model.walk import RUNNING, Run, State

# Of a number's parameter: AdamW's rate is that of embeddings, and the paper's
# for these numbers a fifth of it.
SCALE = 0.2


def lane_names(num: int) -> tuple[str, ...]:
  """Streams of so many lanes."""
  return tuple(f'lane_{i}' for i in range(num))


class Lanes(nn.Module):
  """N streams, and for each trained run N + N^2 + N numbers."""

  cfg: ModelConfig

  def setup(self):
    spec = self.cfg.options
    shape = (spec.lanes * (spec.lanes + 2),)
    self.changes = [
      self.param(f'run_{run}', nn.initializers.zeros, shape, jnp.float32)
      for run in range(self.cfg.trained_runs)
    ]
    if spec.carry_norm:
      self.norm = RMSNorm(self.cfg)
    self.input = Input(self.cfg)

  def start(
    self, x_BxTxD: jax.Array, position_BxT: jax.Array, key: jax.Array
  ) -> State:
    del position_BxT, key
    x_BxTxD = self.input.before(x_BxTxD)
    names = lane_names(self.cfg.options.lanes)
    return dict.fromkeys((RUNNING, *names), x_BxTxD)

  def combine(self, cell: Cell, state: State, run: Run) -> jax.Array:
    read_N, _, _ = self._of_run(run)
    lane_NxBxTxD = jnp.stack([state[name] for name in cell.reads])
    return _mixed(read_N, lane_NxBxTxD)

  def written(self, cell: Cell, state: State, run: Run) -> State:
    if cell.block < self.cfg.options.prelude:
      return self.input.behind(cell, state)

    s_BxTxD = state[RUNNING]
    if self.cfg.options.carry_norm:
      s_BxTxD = self.norm(s_BxTxD)

    _, mix_NxN, write_N = self._of_run(run)
    lane_NxBxTxD = jnp.stack([state[name] for name in cell.writes])
    lane_NxBxTxD = _mixed(mix_NxN, lane_NxBxTxD) + _mixed(
      write_N[:, None], s_BxTxD[None]
    )
    lanes = dict(zip(cell.writes, lane_NxBxTxD, strict=True))
    return lanes | {RUNNING: lane_NxBxTxD.sum(0)}

  def flops(self, cell: Cell) -> float:
    del cell
    num = self.cfg.options.lanes
    return 2.0 * (num + num**2 + num) * self.cfg.dim

  def _of_run(self, run: Run) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What run reads by, mixes by and writes by: [N], [N, N], [N]."""
    num = self.cfg.options.lanes
    last = len(self.changes) - 1
    first_RxM = [first_numbers(r, num) for r in range(len(self.changes))]
    number_RxM = jnp.stack(first_RxM) + SCALE * jnp.stack(self.changes)
    number_M = number_RxM[jnp.minimum(run, last)].astype(self.cfg.dtype)
    read_N, mix, write_N = jnp.split(number_M, (num, num + num**2))
    return read_N, mix.reshape(num, num), write_N


def _mixed(weight_xN: jax.Array, lane_NxBxTxD: jax.Array) -> jax.Array:
  """Weighted sums of lanes."""
  return jnp.tensordot(weight_xN, lane_NxBxTxD, 1)


def first_numbers(run: int, num: int) -> jax.Array:
  """One lane is read, none is mixed with another, all are written to.

  Args:
    run: from 0.
    num: N, lanes.
  """
  read_N = jnp.eye(num)[run % num]
  return jnp.concatenate([read_N, jnp.eye(num).ravel(), jnp.ones(num)])
