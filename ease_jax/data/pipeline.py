"""Batches of windows: shuffled for training, each token once for evaluation.

A batch is a dict of `tokens` and `targets`, [B, T] int32, and `mask`, [B, T]
float32: one where a target counts. Target t is the token that follows token t.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from ease_jax import arrays

Batch = dict[str, np.ndarray]

# Windows that grain may count: a batch of one of its endless ones is one more
# than an integer of Python's C code holds.
_ENDLESS = 2**62


class BatchIterator(Protocol):
  """Endless batches whose position can be saved and set."""

  def __iter__(self) -> Iterator[Batch]: ...

  def __next__(self) -> Batch: ...

  def get_state(self) -> dict[str, Any]:
    """The position, as plain JSON."""
    ...

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes on from a position that `get_state` returned."""
    ...


class _Windows:
  """Windows of T + 1 tokens at stride T; neighbours share one token."""

  def __init__(self, tokens: np.ndarray, seq_len: int):
    self._tokens = tokens
    self._seq_len = seq_len

  def __len__(self) -> int:
    return (len(self._tokens) - 1) // self._seq_len

  def __getitem__(self, index: int) -> np.ndarray:
    start = index * self._seq_len
    end = start + self._seq_len + 1
    return self._tokens[start:end]


def train_iterator(
  tokens: np.ndarray,
  seq_len: int,
  batch_size: int,
  seed: int,
  bos_id: int | None = None,
) -> BatchIterator:
  """Endless batches in a new order each epoch.

  Args:
    tokens: the training split, [N] int32 with N > seq_len.
    seq_len: T; the last (N - 1) mod T targets are never seen.
    batch_size: B, of all processes together; each reads its own rows.
    seed: fixes the order of every epoch.
    bos_id: stands in the place of each window's first token; None = no other.
  """
  source = _Windows(tokens, seq_len)
  windows = grain.MapDataset.source(source).seed(seed).shuffle()
  windows = windows.repeat(_ENDLESS // len(source))

  # Rows are dealt out after shuffling, so that every process sees all the text,
  # and the batches are the same however many processes there are.
  own = arrays.own_share()
  stack = functools.partial(_stack, bos_id)
  batches = windows.batch(batch_size // own.parts, batch_fn=stack)
  batches = batches[own.part :: own.parts]

  # A window is a slice of memory: reading threads cost more than they save.
  options = grain.ReadOptions(num_threads=0)
  return iter(batches.to_iter_dataset(options))


def _stack(bos_id: int | None, windows: Sequence[np.ndarray]) -> Batch:
  window_BxT1 = np.stack(windows)
  tokens_BxT = np.array(window_BxT1[:, :-1])
  _begin(tokens_BxT, bos_id)
  targets_BxT = np.ascontiguousarray(window_BxT1[:, 1:])
  mask_BxT = np.ones(tokens_BxT.shape, np.float32)
  return {'tokens': tokens_BxT, 'targets': targets_BxT, 'mask': mask_BxT}


def _begin(tokens_BxT: np.ndarray, bos_id: int | None) -> None:
  """Lets windows begin as the model knows texts to begin; changes them."""
  if bos_id is not None:
    tokens_BxT[:, 0] = bos_id


def eval_batches(
  tokens: np.ndarray,
  seq_len: int,
  batch_size: int,
  max_tokens: int = 0,
  bos_id: int | None = None,
) -> Iterator[Batch]:
  """Batches in which every token but the first is a target exactly once.

  Args:
    tokens: a split, [N] int32.
    seq_len: T.
    batch_size: B; the last batch is padded to it, with mask 0.
    max_tokens: score about so many targets, in whole windows spread evenly
      over the split, since its first ones may all be of one document; 0 = all.
    bos_id: as in `train_iterator`.
  """
  num_targets = len(tokens) - 1
  start_W = _starts(num_targets, seq_len, max_tokens)
  offset_T = np.arange(seq_len)
  for first in range(0, len(start_W), batch_size):
    start_B = start_W[first : first + batch_size]
    index_BxT = start_B[:, None] + offset_T
    real_BxT = index_BxT < num_targets
    index_BxT = np.where(real_BxT, index_BxT, 0)

    missing_rows = batch_size - len(start_B)
    padding = ((0, missing_rows), (0, 0))
    tokens_BxT = tokens[index_BxT] * real_BxT
    _begin(tokens_BxT, bos_id)
    yield {
      'tokens': np.pad(tokens_BxT, padding),
      'targets': np.pad(tokens[index_BxT + 1] * real_BxT, padding),
      'mask': np.pad(real_BxT.astype(np.float32), padding),
    }


def _starts(num_targets: int, seq_len: int, max_tokens: int) -> np.ndarray:
  """Where the windows of an evaluation start, [W] int."""
  start_W = np.arange(0, num_targets, seq_len)
  num_windows = -(-max_tokens // seq_len)
  if not 0 < num_windows < len(start_W):
    return start_W
  spread_W = np.linspace(0, len(start_W) - 1, num_windows)
  return start_W[spread_W.astype(int)]
