"""Tasks: what training and evaluation ask of data."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from ease_jax import config, data
from ease_jax.checks import ConfigError
from ease_jax.data import task as tasks
from ease_jax.data import tokenizers


def make_task(length=61, seq_len=10):
  """Language modelling on counting bytes."""
  tokens = np.arange(length, dtype=np.int32)
  corpus = data.Corpus(
    source='text',
    tokenizer=tokenizers.Byte(),
    splits={'train': tokens, 'select': tokens[:25], 'test': tokens[:35]},
    sha256='abc',
  )
  return data.LanguageModelling(corpus=corpus, seq_len=seq_len)


def make_spec(**fields):
  section = config.base().data
  section.update(fields)
  return data.DataSpec.from_config(section)


def test_the_config_names_the_task(tmp_path):
  spec = make_spec(train_chars=1000, select_chars=500, test_chars=500)
  task = data.load(spec, tmp_path)
  assert isinstance(task, data.LanguageModelling)
  assert task.attention == 'causal'
  assert task.unit == 'token'
  assert task.vocab_size == 256
  assert task.seq_len == spec.seq_len
  assert not list(tmp_path.iterdir())
  task.save(tmp_path)
  assert (tmp_path / 'tokenizer.json').exists()


def test_an_unknown_task_is_named(tmp_path):
  with pytest.raises(ConfigError) as caught:
    data.load(make_spec(task='chess'), tmp_path)
  assert str(caught.value) == (
    "data.task='chess' is unknown; use one of: language"
  )


def test_a_new_task_is_an_entry_of_the_registry(tmp_path, monkeypatch):
  class Words(tasks.LanguageModelling):
    @classmethod
    def load(cls, spec, workdir):
      assert workdir == tmp_path
      return make_task(seq_len=spec.seq_len)

  monkeypatch.setitem(tasks.TASKS, 'words', Words)
  task = data.load(make_spec(task='words', seq_len=6), tmp_path)
  assert task.seq_len == 6


def test_batches_are_of_the_named_split():
  task = make_task()
  batch = next(task.train_batches(batch_size=3, seed=0))
  assert batch['tokens'].shape == (3, 10)
  batches = list(task.eval_batches('select', batch_size=2))
  assert sum(batch['mask'].sum() for batch in batches) == 24
  few = list(task.eval_batches('test', batch_size=2, max_tokens=10))
  assert sum(batch['mask'].sum() for batch in few) == 10


def test_training_follows_the_seed_and_resumes():
  task = make_task()
  first = task.train_batches(batch_size=2, seed=1)
  same = task.train_batches(batch_size=2, seed=1)
  for batch in itertools.islice(first, 5):
    np.testing.assert_array_equal(batch['tokens'], next(same)['tokens'])

  resumed = task.train_batches(batch_size=2, seed=1)
  resumed.set_state(first.get_state())
  np.testing.assert_array_equal(next(first)['tokens'], next(resumed)['tokens'])


def test_the_beginning_of_a_split_is_consecutive_text():
  beginning = make_task().beginning('test', 15)
  assert beginning.splits == {'test': 16}
  (batch,) = beginning.eval_batches('test', batch_size=2)
  counts = batch['mask'] > 0
  assert batch['targets'][counts].tolist() == list(range(1, 16))


def test_quality_counts_unmasked_tokens_and_their_bytes():
  task = make_task()
  wide = tokenizers.Char('aé')  # two bytes for the second
  corpus = dataclasses.replace(task.corpus, tokenizer=wide)
  task = dataclasses.replace(task, corpus=corpus)
  quality = task.quality(
    nll_RxT=np.array([[1.0, 2.0], [3.0, 99.0]], np.float32),
    correct_RxT=np.array([[True, False], [False, True]]),
    mask_RxT=np.array([[1, 1], [1, 0]], np.float32),
    target_RxT=np.array([[2, 3], [2, 3]], np.int32),
  )
  assert quality == {
    'nll': 2.0,
    'ppl': math.exp(2.0),
    'bits_per_byte': pytest.approx(6.0 / math.log(2) / 4),
    'accuracy': pytest.approx(1 / 3),
  }


def test_quality_refuses_arrays_of_another_shape():
  ones = np.ones((2, 3), np.int32)
  with pytest.raises(AssertionError):
    make_task().quality(ones, ones, ones, np.ones((3, 2), np.int32))


def test_text_goes_through_the_tokenizer():
  task = make_task()
  assert task.decode(task.encode('naïve')) == 'naïve'
  assert task.token_text(65) == 'A'
  assert task.token_text(task.eos_id) == '<eos>'


def test_results_say_what_the_data_was():
  found = make_task().to_json()
  assert len(found.pop('vocab_sha256')) == 64
  assert found == {
    'source': 'text',
    'tokenizer': 'byte',
    'vocab_size': 256,
    'sha256': 'abc',
    'train_tokens': 61,
    'select_tokens': 25,
    'test_tokens': 35,
  }
