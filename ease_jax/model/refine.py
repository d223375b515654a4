"""Iterative refinement: the same stack again, with what it ended on.

  h[s] = stack(inject(x, z[s-1])),  z[s] = h[s];  one state per position

With z added and detached, and a loss at each segment's end, this is IRT.
Recurrent-depth models concatenate and project (Geiping et al. 2502.05171); the
projection that starts as the input alone, the norm on z and the input as first
state are those of iso-depth scaling (2604.21106).
"""

import dataclasses
from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp

from ease_jax.checks import OneOf, check_fields
from ease_jax.core.grid import Cell, Grid
from ease_jax.core.spec import ModelConfig
from ease_jax.model import stack
from ease_jax.model.body import EMBED_STD
from ease_jax.model.kind import Kind
from ease_jax.model.layers import Linear, RMSNorm
from ease_jax.model.streams import (
  FIRST_STATES,
  first_state,
  summed,
)
from ease_jax.model.walk import RUNNING, State

INPUT = 'x'
CARRY = 'z'
LEARNED = 'learned'
OF_INPUT = 'input'
INJECTIONS = ('add', 'concat', 'gate')


@dataclasses.dataclass(frozen=True)
class RefineSpec:
  """Section `model.refine`.

  Attributes:
    carry_init: first state z[0]: zeros, fixed, random, learned, or the input.
    inject: how z meets the input: add; concat, projected from both and at
      first the input alone; gate, a projected share of z.
    carry_norm: whether z is normed (RMSNorm) before it meets the input.
  """

  carry_init: Annotated[str, OneOf((*FIRST_STATES, LEARNED, OF_INPUT))]
  inject: Annotated[str, OneOf(INJECTIONS)]
  carry_norm: bool

  def __post_init__(self):
    check_fields('model.refine', self)

  @property
  def projects(self) -> bool:
    """Whether the injection has a matrix of its own."""
    return self.inject != 'add'


def schedule(cfg: ModelConfig) -> Grid:
  """The layers of a stack; the first reads input and carry, the last writes."""
  cells = list(stack.layers(cfg))
  cells[0] = dataclasses.replace(cells[0], reads=(INPUT, CARRY))
  cells[-1] = dataclasses.replace(cells[-1], writes=CARRY)
  return Grid(tuple(cells), cfg.segments)


def _input_alone(
  key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype
) -> jax.Array:
  """A projection of [x; z] that is x: [I | 0], transposed."""
  del key
  return jnp.eye(*shape, dtype=dtype)


class Carried(nn.Module):
  """The input x and the carried state z."""

  cfg: ModelConfig

  def setup(self):
    spec: RefineSpec = self.cfg.options
    if spec.carry_init == LEARNED:
      init = nn.initializers.normal(EMBED_STD)
      self.first = self.param('first', init, (self.cfg.dim,), jnp.float32)
    dtype = jnp.dtype(self.cfg.dtype)
    if spec.projects:
      init = _input_alone if spec.inject == 'concat' else None
      self.inject = Linear(self.cfg.dim, dtype, kernel_init=init)
    if spec.carry_norm:
      self.norm = RMSNorm(dtype)

  def start(
    self, x_BxTxD: jax.Array, position_BxT: jax.Array, key: jax.Array
  ) -> State:
    kind = self.cfg.options.carry_init
    if kind == LEARNED:
      first_1x1xD = self.first.astype(x_BxTxD.dtype)[None, None]
      z_BxTxD = jnp.broadcast_to(first_1x1xD, x_BxTxD.shape)
    elif kind == OF_INPUT:
      z_BxTxD = x_BxTxD
    else:
      if kind == 'fixed':
        key = jax.random.key(0)
      # As large as the embeddings that it is added to.
      z_BxTxD = first_state(kind, x_BxTxD, position_BxT, key, EMBED_STD)
    return {RUNNING: x_BxTxD, INPUT: x_BxTxD, CARRY: z_BxTxD}

  def combine(self, cell: Cell, state: State) -> jax.Array:
    spec: RefineSpec = self.cfg.options
    if spec.carry_norm:
      state = state | {CARRY: self.norm(state[CARRY])}
    if spec.inject == 'add':
      return summed(cell, state)

    x_BxTxD = state[INPUT]
    z_BxTxD = state[CARRY]
    projected = self.inject(jnp.concatenate([x_BxTxD, z_BxTxD], -1))
    if spec.inject == 'concat':
      return projected
    return x_BxTxD + nn.sigmoid(projected) * z_BxTxD

  def flops(self, cell: Cell) -> float:
    del cell
    dim = self.cfg.dim
    return 2 * 2 * dim * dim if self.cfg.options.projects else 0.0


REFINE = Kind('refine', schedule, Carried, RefineSpec)
