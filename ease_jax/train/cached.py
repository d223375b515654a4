"""States of a model that stays as it is, learned from more than once.

Where nothing in front of a readout learns or is drawn, a batch has the same
states in each update. They are made once and kept; what a readout has of its
own learns from them as if they had been made anew.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ease_jax.data.pipeline import Batch, BatchIterator
from ease_jax.model import Body, Params
from ease_jax.model.walk import RUNNING, Walked
from ease_jax.train import targets
from ease_jax.train.spec import TrainSpec

STATES = 'states'  # of a batch: at each readout, [B, T, D] each
States = tuple[jax.Array, ...]


class Repeated:
  """The first batches of an iterator, in their order, again and again.

  Args:
    batches: from its beginning; read as far as batches are asked for.
    num: how many of them.
  """

  def __init__(self, batches: BatchIterator, num: int):
    self._batches = batches
    self._num = num
    self._read: list[Batch] = []
    self._place = 0

  def __iter__(self) -> 'Repeated':
    return self

  def __next__(self) -> Batch:
    while len(self._read) <= self._place:
      self._read.append(next(self._batches))
    batch = self._read[self._place]
    self._place = (self._place + 1) % self._num
    return batch

  def get_state(self) -> dict[str, Any]:
    """Which of the batches is the next one, from 0."""
    return {'place': self._place}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes on from a place that `get_state` returned."""
    self._place = state['place']


def again(batches: BatchIterator, num: int) -> BatchIterator:
  """The first so many batches, again and again; 0 = all, each once."""
  return Repeated(batches, num) if num else batches


@functools.partial(jax.jit, static_argnames='model')
def states(params: Params, token_BxT: jax.Array, *, model: Body) -> States:
  """At each readout before its adapters, [B, T, D] each."""
  return tuple(model.bind({'params': params}).states(token_BxT))


def walked(batch: targets.Batch) -> Walked | None:
  """What a walk over all cells comes to; None where no states were kept."""
  if STATES not in batch:
    return None
  state_R = tuple({RUNNING: h_BxTxD} for h_BxTxD in batch[STATES])
  return Walked(state_R[-1], None, state_R, (), (), ())


def described(spec: TrainSpec, model: Body, seq_len: int) -> Iterator[str]:
  """What is kept, and the memory that takes; nothing where nothing is.

  Args:
    spec: how many batches.
    model: a body.
    seq_len: T.
  """
  if not spec.cached_batches:
    return
  tokens = spec.cached_batches * spec.batch_size * seq_len
  num = model.grid.num_readouts
  size = num * tokens * model.cfg.dim * jnp.dtype(model.cfg.dtype).itemsize
  yield (
    f'keeps the states of {tokens:,} tokens at {num} readouts, '
    f'{size / 1e6:,.1f} MB'
  )
