"""Prepared tokens: the same batches as of the text, of which little is read."""

import itertools

import numpy as np
import pytest

from ease_jax import config, data
from ease_jax.data import (
  prepare,
)
from ease_jax.data.recipe import Recipe

WORDS = 'the cat sat on a mat, naïve as ever: 你好 12 times\n'
SEQ_LEN = 16


def write_texts(folder, count, length=400):
  """Documents of words in an order of their own, most of them of one length."""
  folder.mkdir(parents=True)
  rng = np.random.default_rng(count)
  for i in range(count):
    words = rng.permutation(WORDS.split(' ') * (length // 50))
    (folder / f'{i:02}.txt').write_text(f'{i} ' + ' '.join(words) + '\r\n')
  # A letter of its own, which a held-out split may have and train not.
  (folder / 'z.txt').write_text('Ω' * 60 + ' Ж é\n' * 20)
  return str(folder)


def recipe(*paths, **fields):
  small = {'shard_bytes': 500, 'piece_bytes': 64}
  return Recipe(paths, **small | fields)


def make_spec(**fields):
  section = config.base().data
  section.update({'seq_len': SEQ_LEN} | fields)
  return data.DataSpec.from_config(section)


def load(folder, workdir=None, **fields):
  return data.load(make_spec(source='tokens', path=folder, **fields), workdir)


def folders(*paths):
  return tuple(map(str, paths))


def assert_same_batches(found, expected, number=40):
  for ours, theirs in itertools.islice(
    zip(found, expected, strict=True), number
  ):
    assert ours.keys() == theirs.keys()
    for name in theirs:
      assert ours[name].dtype == theirs[name].dtype
      np.testing.assert_array_equal(ours[name], theirs[name], name)


@pytest.mark.parametrize('kind', ['byte', 'char', 'bpe'])
@pytest.mark.parametrize('count', [3, 30], ids=['cut', 'whole documents'])
def test_tokens_give_the_batches_of_their_text(tmp_path, kind, count):
  texts = write_texts(tmp_path / 'texts', count)
  fields = {'tokenizer': kind}
  if kind == 'bpe':
    fields['vocab_size'] = 300
  made = recipe(texts, select_fraction=0.1, **fields)
  folder = prepare.prepare_tokens(made, tmp_path / 'made' / 'tokens')
  expected = data.load(
    make_spec(source='text', path=(texts,), select_fraction=0.1, **fields)
  )
  found = load((folder,), tokenizer=kind)

  assert found.splits == expected.splits
  assert len(found.corpus.splits['train'].parts) > 1
  assert found.corpus.tokenizer.to_json() == (
    expected.corpus.tokenizer.to_json()
  )
  assert_same_batches(
    found.train_batches(4, seed=1), expected.train_batches(4, seed=1)
  )
  for split in data.SPLITS:
    for most in (0, 100):
      assert_same_batches(
        found.eval_batches(split, 3, most),
        list(expected.eval_batches(split, 3, most)),
      )
  beginning = found.beginning('test', 50)
  assert beginning.splits == {'test': 51}
  assert_same_batches(
    beginning.eval_batches('test', 3),
    expected.beginning('test', 50).eval_batches('test', 3),
  )
  if kind == 'char':
    assert 'scored' in next(found.eval_batches('test', 3))
  assert prepare.check(folder).endswith('are as index.json says')
