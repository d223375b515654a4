"""Streams: what cells read and write, and what is carried between segments.

Each body has one final class of streams. `start` makes them from the input,
`combine` makes the input of a cell that reads some of them.
"""

from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from ease_jax.core.grid import Cell
from ease_jax.core.spec import ModelConfig
from ease_jax.model.layers import RMSNorm
from ease_jax.model.walk import RUNNING, Run, State

# Standard deviation of a normal distribution that is cut off at 2.
TRUNCATED_STD = 0.87962566


class Streams(Protocol):
  """What a body asks of its streams; each class is a module of `cfg`."""

  def start(
    self, x_BxTxD: jax.Array, position_BxT: jax.Array, key: jax.Array
  ) -> State:
    """All streams before the first cell.

    Args:
      x_BxTxD: the embedded input.
      position_BxT: positions; random states depend on nothing else. B may be
        1 where all rows stand at the same ones.
      key: of random states.
    """
    ...

  def combine(self, cell: Cell, state: State, run: Run) -> jax.Array:
    """The input of a cell that reads streams, [B, T, D].

    Args:
      cell: about to run.
      state: all streams.
      run: number of its segment, from 0; it may be any.
    """
    ...

  def written(self, cell: Cell, state: State, run: Run) -> State:
    """Streams after a cell that writes some; `copied` is the plain way.

    Args:
      cell: that ran.
      state: all streams, of which RUNNING is its output.
      run: as above.
    """
    ...

  def flops(self, cell: Cell) -> float:
    """FLOPs of `combine` for one token, additions left out."""
    ...


class Plain(nn.Module):
  """One running state and the input; what a cell reads is summed."""

  cfg: ModelConfig

  def start(
    self, x_BxTxD: jax.Array, position_BxT: jax.Array, key: jax.Array
  ) -> State:
    del position_BxT, key
    return {RUNNING: x_BxTxD}

  def combine(self, cell: Cell, state: State, run: Run) -> jax.Array:
    del run
    return summed(cell, state)

  def written(self, cell: Cell, state: State, run: Run) -> State:
    del run
    return copied(cell, state)

  def flops(self, cell: Cell) -> float:
    del cell
    return 0.0


def summed(cell: Cell, state: State) -> jax.Array:
  """The sum of the streams that a cell reads, in their order."""
  first, *others = cell.reads
  total = state[first]
  for name in others:
    total = total + state[name]
  return total


def copied(cell: Cell, state: State) -> State:
  """A cell's output as each of the streams that it writes."""
  return {name: state[RUNNING] for name in cell.writes}


class Input(nn.Module):
  """What the runs begin with: the embedding, or what a prelude ended on."""

  cfg: ModelConfig

  def setup(self):
    if self.cfg.options.input_norm:
      self.norm = RMSNorm(self.cfg)

  def before(self, x_BxTxD: jax.Array) -> jax.Array:
    """The embedded input, which is normed here where there is no prelude."""
    spec = self.cfg.options
    return (
      self.norm(x_BxTxD) if spec.input_norm and not spec.prelude else x_BxTxD
    )

  def behind(self, cell: Cell, state: State) -> State:
    """The streams that begin behind the prelude."""
    if self.cfg.options.input_norm:
      state = state | {RUNNING: self.norm(state[RUNNING])}
    return copied(cell, state)


FIRST_STATES = ('zeros', 'fixed', 'random')
OF_INPUT = 'input'  # what a body may offer beside them


def first_state(
  kind: str,
  x_BxTxD: jax.Array,
  position_BxT: jax.Array,
  key: jax.Array,
  std: float,
) -> jax.Array:
  """First state of a carry, [B, T, D], for any T and the same in all rows.

  Args:
    kind: zeros; fixed, one random vector whatever the key; random, one for
      each position.
    x_BxTxD: gives shape and type.
    position_BxT: absolute positions; B may be 1.
    key: what is drawn depends on it and on the position only.
    std: standard deviation of what is drawn.
  """
  dim = x_BxTxD.shape[-1]
  if kind == 'zeros':
    return jnp.zeros_like(x_BxTxD)

  if kind == 'fixed':
    cut_off = jax.random.truncated_normal(key, -2.0, 2.0, (1, 1, dim))
    z = cut_off / TRUNCATED_STD
  elif kind == 'random':

    def draw(position: jax.Array) -> jax.Array:
      return jax.random.normal(jax.random.fold_in(key, position), (dim,))

    z = jax.vmap(jax.vmap(draw))(position_BxT)
  else:
    raise ValueError(f'unknown first state {kind!r}')

  return jnp.broadcast_to(std * z, x_BxTxD.shape).astype(x_BxTxD.dtype)
