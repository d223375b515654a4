"""Batches of windows: shuffled for training, each token once for evaluation.

A batch is a dict of `tokens` and `targets`, [B, T] int32, and `mask`, [B, T]
float32: one where a target counts. Target t is the token that follows token t.
"""

from collections.abc import Iterator, Sequence

import grain
import jax
import numpy as np

Batch = dict[str, np.ndarray]


class _Windows:
  """Windows of T + 1 tokens at stride T; neighbours share one token."""

  def __init__(self, tokens: np.ndarray, seq_len: int):
    self._tokens = tokens
    self._seq_len = seq_len

  def __len__(self) -> int:
    return (len(self._tokens) - 1) // self._seq_len

  def __getitem__(self, index: int) -> np.ndarray:
    start = index * self._seq_len
    return self._tokens[start : start + self._seq_len + 1]


def train_iterator(
  tokens: np.ndarray, seq_len: int, batch_size: int, seed: int
) -> grain.DatasetIterator:
  """Endless batches in a new order each epoch; has get_state, set_state.

  Args:
    tokens: the training split, [N] int32 with N > seq_len.
    seq_len: T; the last (N - 1) mod T targets are never seen.
    batch_size: B, of this process; processes read disjoint windows.
    seed: fixes the order of every epoch.
  """
  # Sharding comes after shuffling, so that every process sees all the text.
  shard = slice(jax.process_index(), None, jax.process_count())
  windows = (
    grain.MapDataset.source(_Windows(tokens, seq_len))
    .seed(seed)
    .shuffle()
    .repeat()[shard]
  )
  batches = windows.batch(batch_size, batch_fn=_stack)
  # A window is a slice of memory: reading threads cost more than they save.
  return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=0)))


def _stack(windows: Sequence[np.ndarray]) -> Batch:
  window_BxT1 = np.stack(windows)
  tokens_BxT = np.ascontiguousarray(window_BxT1[:, :-1])
  return {
    'tokens': tokens_BxT,
    'targets': np.ascontiguousarray(window_BxT1[:, 1:]),
    'mask': np.ones(tokens_BxT.shape, np.float32),
  }


def eval_batches(
  tokens: np.ndarray, seq_len: int, batch_size: int, max_tokens: int = 0
) -> Iterator[Batch]:
  """Batches in which every token but the first is a target exactly once.

  Args:
    tokens: a split, [N] int32.
    seq_len: T.
    batch_size: B; the last batch is padded to it, with mask 0.
    max_tokens: score about so many targets, in whole windows spread evenly
      over the split, since its first ones may all be of one document; 0 = all.
  """
  num_targets = len(tokens) - 1
  start_W = np.arange(0, num_targets, seq_len)
  num_windows = -(-max_tokens // seq_len)
  if 0 < num_windows < len(start_W):
    spread_W = np.linspace(0, len(start_W) - 1, num_windows)
    start_W = start_W[spread_W.astype(int)]
  offset_T = np.arange(seq_len)
  for first in range(0, len(start_W), batch_size):
    start_B = start_W[first : first + batch_size]
    missing = ((0, batch_size - len(start_B)), (0, 0))
    index_BxT = start_B[:, None] + offset_T
    mask_BxT = index_BxT < num_targets
    index_BxT = np.where(mask_BxT, index_BxT, 0)
    yield {
      'tokens': np.pad(tokens[index_BxT] * mask_BxT, missing),
      'targets': np.pad(tokens[index_BxT + 1] * mask_BxT, missing),
      'mask': np.pad(mask_BxT.astype(np.float32), missing),
    }
