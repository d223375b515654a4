"""Batches: shuffled for training, each target once for evaluation."""

import itertools

import numpy as np
import pytest

from ease_jax import arrays, data


def counting(length):
  """Tokens 0, 1, 2, ..., so that a token tells where it stood."""
  return np.arange(length, dtype=np.int32)


# Training batches.


def windows(batches, seq_len):
  """Numbers of the windows of counting tokens that batches hold."""
  rows = itertools.chain(*(batch['tokens'] for batch in batches))
  return [int(row[0]) // seq_len for row in rows]


def next_windows(iterator, num_batches, seq_len=10):
  return windows(itertools.islice(iterator, num_batches), seq_len)


def test_a_training_batch_has_the_next_token_as_target():
  batch = next(data.train_iterator(counting(101), 10, 4, 0))
  assert {name: array.shape for name, array in batch.items()} == {
    'tokens': (4, 10),
    'targets': (4, 10),
    'mask': (4, 10),
  }
  assert {name: array.dtype for name, array in batch.items()} == {
    'tokens': np.int32,
    'targets': np.int32,
    'mask': np.float32,
  }
  np.testing.assert_array_equal(batch['targets'], batch['tokens'] + 1)
  assert batch['mask'].all()


def test_every_epoch_has_all_windows_in_a_new_order():
  iterator = data.train_iterator(counting(10 * 24 + 1), 10, 4, seed=3)
  epochs = [next_windows(iterator, 6) for _ in range(3)]
  for epoch in epochs:
    assert sorted(epoch) == list(range(24))
  assert len(set(map(tuple, epochs))) == 3


def test_the_order_follows_the_seed():
  def order(seed):
    return next_windows(data.train_iterator(counting(1001), 10, 4, seed), 9)

  assert order(1) == order(1)
  assert order(1) != order(2)


def test_training_resumes_where_it_stopped():
  iterator = data.train_iterator(counting(1001), 10, 4, 0)
  next_windows(iterator, 30)  # into the second epoch
  state = iterator.get_state()
  expected = next_windows(iterator, 9)

  resumed = data.train_iterator(counting(1001), 10, 4, 0)
  resumed.set_state(state)
  assert next_windows(resumed, 9) == expected


def test_a_batch_may_hold_more_windows_than_an_epoch():
  iterator = data.train_iterator(counting(21), 10, 8, 0)
  assert sorted(next_windows(iterator, 1)) == [0] * 4 + [1] * 4


def test_processes_read_disjoint_windows(monkeypatch):
  def windows_of(part, parts):
    share = arrays.Share(part, parts)
    monkeypatch.setattr(arrays, 'own_share', lambda: share)
    iterator = data.train_iterator(counting(241), 10, 4, 0)
    found = next_windows(iterator, 6)
    return np.asarray(found).reshape(6, 4 // parts)

  parts = [windows_of(part, 2) for part in range(2)]
  # The same rows of the same batches as in one process.
  np.testing.assert_array_equal(np.concatenate(parts, 1), windows_of(0, 1))
  assert sorted(np.concatenate(parts).flat) == list(range(24))


# Evaluation batches.


def scored(batches):
  """(token, target) pairs that count, in order."""
  pairs = []
  for batch in batches:
    counts = batch['mask'] == 1
    tokens = batch['tokens'][counts].tolist()
    targets = batch['targets'][counts].tolist()
    pairs += zip(tokens, targets, strict=True)
  return pairs


@pytest.mark.parametrize('batch_size', [1, 3, 4, 50])
@pytest.mark.parametrize('length', [2, 10, 11, 12, 40, 41, 100])
def test_every_target_is_scored_once(length, batch_size):
  batches = list(data.eval_batches(counting(length), 10, batch_size))
  assert scored(batches) == [(i, i + 1) for i in range(length - 1)]
  for batch in batches:
    assert {array.shape for array in batch.values()} == {(batch_size, 10)}
    assert batch['tokens'].dtype == batch['targets'].dtype == np.int32
    assert batch['mask'].dtype == np.float32
    assert batch['mask'].any()


@pytest.mark.parametrize(
  'max_tokens, expected', [(1, [0]), (15, [0, 9]), (30, [0, 4, 9])]
)
def test_max_tokens_spreads_whole_windows_over_the_split(max_tokens, expected):
  batches = data.eval_batches(counting(101), 10, 4, max_tokens)
  pairs = []
  for window in expected:
    first = 10 * window
    pairs += [(i, i + 1) for i in range(first, first + 10)]
  assert scored(batches) == pairs


def test_max_tokens_beyond_the_split_scores_all():
  batches = data.eval_batches(counting(100), 10, 4, 1000)
  assert scored(batches) == [(i, i + 1) for i in range(99)]


def test_a_batch_may_be_one_window():
  tokens = counting(4 * 8 + 1)
  batches = data.train_iterator(tokens, seq_len=8, batch_size=1, seed=0)
  firsts = [next(batches)['tokens'][0, 0] for _ in range(4)]
  assert sorted(firsts) == [0, 8, 16, 24]
