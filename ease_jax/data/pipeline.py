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
      .seed(seed).shuffle().repeat()[shard]
  )  # pyformat: disable
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
    max_tokens: score only the first so many targets; 0 = all.
  """
  num_targets = len(tokens) - 1
  if max_tokens:
    num_targets = min(num_targets, max_tokens)
  shape, size = (batch_size, seq_len), batch_size * seq_len
  for start in range(0, num_targets, size):
    stop = min(start + size, num_targets)
    padding = (0, size - (stop - start))
    yield {
        'tokens': np.pad(tokens[start:stop], padding).reshape(shape),
        'targets': np.pad(tokens[start + 1 : stop + 1], padding).reshape(shape),
        'mask': np.pad(
            np.ones(stop - start, np.float32), padding).reshape(shape),
    }  # pyformat: disable
