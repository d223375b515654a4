"""Batches: shuffled for training, each target once for evaluation."""

import itertools

import numpy as np
import pytest

from ease_jax import data

# Training batches.


def starts(batches, seq_len):
  """Window indices of batches over tokens 0, 1, 2, ..."""
  return [int(row[0]) // seq_len for b in batches for row in b['tokens']]


def test_train_batch():
  batch = next(data.train_iterator(np.arange(101, dtype=np.int32), 10, 4, 0))
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
    'tokens': ((4, 10), np.int32),
    'targets': ((4, 10), np.int32),
    'mask': ((4, 10), np.float32),
  }
  np.testing.assert_array_equal(batch['targets'], batch['tokens'] + 1)
  assert batch['mask'].all()


def test_every_epoch_has_all_windows_in_a_new_order():
  tokens = np.arange(10 * 24 + 1, dtype=np.int32)
  iterator = data.train_iterator(tokens, 10, 4, seed=3)
  epochs = [starts(itertools.islice(iterator, 6), 10) for _ in range(3)]
  assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
  assert len(set(map(tuple, epochs))) == 3


def test_train_order_follows_the_seed():
  tokens = np.arange(1001, dtype=np.int32)
  orders = [
    starts(itertools.islice(data.train_iterator(tokens, 10, 4, s), 9), 10)
    for s in (1, 1, 2)
  ]
  assert orders[0] == orders[1] != orders[2]


def test_train_resumes_where_it_stopped():
  tokens = np.arange(1001, dtype=np.int32)
  iterator = data.train_iterator(tokens, 10, 4, 0)
  for _ in range(30):  # into the second epoch
    next(iterator)
  state = iterator.get_state()
  expected = starts(itertools.islice(iterator, 9), 10)
  resumed = data.train_iterator(tokens, 10, 4, 0)
  resumed.set_state(state)
  assert starts(itertools.islice(resumed, 9), 10) == expected


def test_fewer_windows_than_a_batch():
  batch = next(data.train_iterator(np.arange(21, dtype=np.int32), 10, 8, 0))
  assert sorted(starts([batch], 10)) == [0] * 4 + [1] * 4


def test_processes_read_disjoint_windows(monkeypatch):
  tokens = np.arange(241, dtype=np.int32)
  monkeypatch.setattr('jax.process_count', lambda: 2)
  seen = []
  for index in range(2):
    monkeypatch.setattr('jax.process_index', lambda i=index: i)
    iterator = data.train_iterator(tokens, 10, 4, 0)
    seen += starts(itertools.islice(iterator, 3), 10)
  assert sorted(seen) == list(range(24))


# Evaluation batches.


def scored(batches):
  """(token, target) pairs that count, in order."""
  return [
    pair
    for b in batches
    for pair in zip(
      b['tokens'][b['mask'] == 1].tolist(),
      b['targets'][b['mask'] == 1].tolist(),
    )
  ]


@pytest.mark.parametrize('batch_size', [1, 3, 4, 50])
@pytest.mark.parametrize('length', [2, 10, 11, 12, 40, 41, 100])
def test_every_target_is_scored_once(length, batch_size):
  tokens = np.arange(length, dtype=np.int32)
  batches = list(data.eval_batches(tokens, 10, batch_size))
  assert scored(batches) == [(i, i + 1) for i in range(length - 1)]
  for batch in batches:
    assert {v.shape for v in batch.values()} == {(batch_size, 10)}
    assert [v.dtype for v in batch.values()] == [np.int32, np.int32, np.float32]
    assert batch['mask'].any()


@pytest.mark.parametrize(
  'max_tokens, windows', [(1, [0]), (15, [0, 9]), (30, [0, 4, 9])]
)
def test_max_tokens_spreads_whole_windows_over_the_split(max_tokens, windows):
  tokens = np.arange(101, dtype=np.int32)
  batches = data.eval_batches(tokens, 10, 4, max_tokens)
  expected = [i for w in windows for i in range(10 * w, 10 * w + 10)]
  assert scored(batches) == [(i, i + 1) for i in expected]


def test_max_tokens_beyond_the_split_scores_all():
  batches = data.eval_batches(np.arange(100, dtype=np.int32), 10, 4, 1000)
  assert scored(batches) == [(i, i + 1) for i in range(99)]
