"""Rows of a batch that run a number of segments each of its own.

Parcae (2604.12946) draws a number for each row, as one for the whole batch
moves all gradients at once. Rows that run less often wait with their first
state until as many segments are left as they run: all answer in the last one,
and gradients reach the last runs of each row, whoever ran longer beside it.
"""

import jax
import jax.numpy as jnp

from ease_jax.model.exits import Exits, before_exits
from ease_jax.train.targets import Batch

RUNS = 'runs'  # of a batch: segments that each row runs, [B] int32


def waiting(batch: Batch, left: jax.typing.ArrayLike) -> Exits | None:
  """Rows that keep their state in a segment; None = all rows run.

  Args:
    batch: with the numbers of its rows, or without.
    left: segments that are still to run, this one included, a scalar.
  """
  if RUNS not in batch:
    return None
  waits_Bx1 = (batch[RUNS] < left)[:, None]
  return before_exits(jnp.broadcast_to(waits_Bx1, batch['tokens'].shape))


def begun(batch: Batch, before: jax.Array, segments: int) -> jax.Array:
  """Whether a state was moved before the segments that learn.

  Args:
    batch: with the numbers of its rows, or without.
    before: segments that learn nothing, a scalar.
    segments: that learn, behind them.

  Returns:
    bool, of all rows [], or of each one [B, 1, 1].
  """
  if RUNS not in batch:
    return before > 0
  return (batch[RUNS] > segments)[:, None, None]
