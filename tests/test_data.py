"""Text, splits and what `data.load` makes of them."""

import itertools
import pathlib

import numpy as np
import pytest

from ease_jax import config as config_lib
from ease_jax import data
from ease_jax.config import ConfigError
from ease_jax.data import prepare, text, tokenizers


def write(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content.encode() if isinstance(content, str) else content)
  return str(path)


def make_config(*paths, **fields):
  config = config_lib.base()
  config.data.source = 'text'
  config.data.path = tuple(map(str, paths))
  config.data.seq_len = 8
  config.data.update(fields)
  return config


def write_documents(folder, count=40):
  """Documents of one length, each recognisable in the text."""
  for i in range(count):
    write(folder / f'{i:02}.txt', f'document {i:02} ' + 'lorem ipsum ' * 5)
  return folder


def message(config, workdir):
  with pytest.raises(ConfigError) as caught:
    data.load(config, workdir)
  return str(caught.value)


def documents(count, size=50):
  return [text.Document(f'{i}', f'{i:03}'.ljust(size)) for i in range(count)]


# The fitted tokenizer.


def test_char_vocabulary_is_of_the_training_split(tmp_path):
  config = make_config(
    write(tmp_path / 'train.txt', 'abcabcabcabc'),
    tokenizer='char',
    select_path=(write(tmp_path / 'select.txt', 'aXbY'),),
    test_path=(write(tmp_path / 'test.txt', 'ccZ'),),
  )
  loaded = data.load(config, tmp_path)
  assert loaded.tokenizer.vocab_size == 5
  tokens = [loaded.tokenizer.token_text(i) for i in range(5)]
  assert tokens == ['<unk>', '<eos>', 'a', 'b', 'c']
  assert loaded.splits['select'].tolist() == [2, 0, 3, 0]
  assert loaded.splits['test'].tolist() == [4, 4, 0]
  assert loaded.tokenizer.decode([4, 4, 0]) == 'cc\ufffd'


def test_bpe_is_fitted_once_and_on_the_training_split(tmp_path, monkeypatch):
  config = make_config(
    write_documents(tmp_path / 'text'), tokenizer='bpe', vocab_size=300
  )
  fitted = []
  fit = tokenizers.Bpe.fit
  monkeypatch.setattr(
    tokenizers.Bpe, 'fit', lambda *args: fitted.append(args) or fit(*args)
  )
  first = data.load(config, tmp_path / 'run')
  again = data.load(config, tmp_path / 'run')
  assert len(fitted) == 1
  assert fitted[0] == (text.read(config.data)['train'], 300)
  assert first.sha256 == again.sha256
  assert again.tokenizer.vocab_size == 300


def test_another_tokenizer_needs_another_workdir(tmp_path):
  config = make_config(write_documents(tmp_path / 'text'))
  data.load(config, tmp_path)
  config.data.tokenizer = 'char'
  assert message(config, tmp_path) == (
    f"data.tokenizer='char', but {tmp_path}/tokenizer.json is of kind "
    "'byte'; use another workdir"
  )


# Documents and splits.


@pytest.mark.parametrize('count', [20, 50, 400])
def test_many_documents_split_whole(count):
  docs = documents(count)
  parts = text.split(docs, 0.1, 0.2)
  assert sorted(sum(parts.values(), [])) == [d.text for d in docs]
  assert len(parts['select']) == count // 10
  assert len(parts['test']) == count // 5
  assert parts == text.split(docs, 0.1, 0.2)


def test_split_depends_on_names_not_on_order():
  docs = documents(50)
  parts, mirrored = text.split(docs, 0.1, 0.1), text.split(docs[::-1], 0.1, 0.1)
  assert {k: set(v) for k, v in parts.items()} == {
    k: set(v) for k, v in mirrored.items()
  }


def test_no_held_out_split_is_empty_or_swallows_the_text():
  docs = documents(20)
  docs[7] = text.Document('long', 'x' * 100_000)
  parts = text.split(docs, 0.0001, 0.0001)
  assert len(parts['select']) == len(parts['test']) == 1
  assert docs[7].text in parts['train']


@pytest.mark.parametrize('count', [1, 3, 19])
def test_few_documents_split_contiguously(count):
  docs = documents(count, size=100)
  parts = text.split(docs, 0.1, 0.2)
  whole = ''.join(d.text for d in docs)
  joined = {name: ''.join(texts) for name, texts in parts.items()}
  assert joined['train'] + joined['select'] + joined['test'] == whole
  assert len(joined['select']) == 10 * count
  assert len(joined['test']) == 20 * count


def test_cut_keeps_documents():
  assert text.cut(['abc', 'def'], 4) == (['abc', 'd'], ['ef'])
  assert text.cut(['abc', 'def'], 3) == (['abc'], ['def'])
  assert text.cut(['abc'], 9) == (['abc'], [])


def test_loaded_splits_hold_whole_documents_once(tmp_path):
  config = make_config(write_documents(tmp_path / 'text'))
  loaded = data.load(config, tmp_path)
  seen = []
  for tokens in loaded.splits.values():
    pieces = tokens.astype(np.uint8).tobytes().split(b'\0')
    assert all(p.endswith(b'lorem ipsum ') for p in pieces)
    seen += [piece[:11] for piece in pieces]
  assert sorted(seen) == [f'document {i:02}'.encode() for i in range(40)]
  assert [len(t) for t in loaded.splits.values()] == [
    36 * 73 - 1,
    2 * 73 - 1,
    2 * 73 - 1,
  ]


def test_location_changes_nothing_and_content_changes_the_hash(tmp_path):
  one = make_config(write_documents(tmp_path / 'one'))
  two = make_config(write_documents(tmp_path / 'elsewhere' / 'two'))
  sha256 = data.load(one, tmp_path).sha256
  assert data.load(two, tmp_path).sha256 == sha256
  write(tmp_path / 'one' / '00.txt', 'changed ' * 9)
  assert data.load(one, tmp_path).sha256 != sha256


def test_own_files_form_a_split_and_limits_truncate(tmp_path):
  config = make_config(
    write(tmp_path / 'a.txt', 'a' * 100),
    str(tmp_path / 'b*.md'),
    select_path=(write(tmp_path / 's.txt', 's' * 30),),
    train_chars=85,
    select_chars=7,
  )
  write(tmp_path / 'b.md', 'b' * 100)
  splits = {
    name: bytes(tokens.tolist())
    for name, tokens in data.load(config, tmp_path).splits.items()
  }
  assert splits == {'train': b'a' * 85, 'select': b's' * 7, 'test': b'b' * 10}
  # Nothing is held out of `path` for a split that has its own files.
  config.data.train_chars = 0
  assert text.read(config.data)['train'] == ['a' * 100, 'b' * 90]


def test_stdlib_is_deterministic_and_has_no_tests(monkeypatch):
  first = text.stdlib()
  walk = text.os.walk

  def reversed_walk(root):
    for folder, subfolders, names in walk(root):
      yield folder, subfolders, names[::-1]

  monkeypatch.setattr(text.os, 'walk', reversed_walk)
  assert text.stdlib() == first
  names = [document.name for document in first]
  assert names == sorted(set(names))
  assert {'abc.py', 'json/decoder.py'} <= set(names)
  parts = set(itertools.chain(*(pathlib.Path(n).parts for n in names)))
  assert not parts & {'test', 'tests', 'site-packages', '__pycache__'}


def test_config_defaults_load(tmp_path):
  config = config_lib.base()
  config.data.train_chars = config.data.select_chars = 1000
  loaded = data.load(config, tmp_path)
  assert loaded.source == 'stdlib'
  assert len(loaded.splits['train']) >= 1000
  assert len(loaded.splits['test']) > 100_000


# Errors.


def test_no_path(tmp_path):
  assert message(make_config(), tmp_path) == (
    'data.path=() names no file; give files, folders or globs'
  )


def test_missing_path(tmp_path):
  path = str(tmp_path / 'absent.txt')
  assert message(make_config(path), tmp_path) == (
    f'data.path: {path!r} does not exist; correct the path'
  )


def test_missing_select_path(tmp_path):
  config = make_config(
    write(tmp_path / 'a.txt', 'a' * 99), select_path=('no/where*',)
  )
  assert message(config, tmp_path) == (
    "data.select_path: 'no/where*' does not exist; correct the path"
  )


def test_folder_without_text(tmp_path):
  assert message(make_config(tmp_path), tmp_path) == (
    f"data.path: '{tmp_path}' holds no *.txt file; correct the path"
  )


def test_empty_file(tmp_path):
  path = write(tmp_path / 'empty.txt', '')
  assert message(make_config(path), tmp_path) == (
    f'data.path: {path!r} is empty; give a file that has text'
  )


def test_not_utf8(tmp_path):
  path = write(tmp_path / 'latin.txt', b'caf\xe9 au lait')
  assert message(make_config(path), tmp_path) == (
    f'data.path: {path!r} is not UTF-8 at byte 3; convert it to UTF-8'
  )


def test_file_in_two_splits(tmp_path):
  path = write(tmp_path / 'a.txt', 'a' * 99)
  config = make_config(tmp_path, test_path=(path,))
  assert message(config, tmp_path) == (
    f'data: {path!r} is in both train and test; name it in one of path, '
    'select_path and test_path'
  )


def test_train_too_short(tmp_path):
  path = write(tmp_path / 'a.txt', 'a' * 100)
  assert message(make_config(path, train_chars=8), tmp_path) == (
    'data: the train split has 8 tokens, fewer than data.seq_len + 1 = 9; '
    'give more text or lower data.seq_len'
  )
  data.load(make_config(path, train_chars=9), tmp_path)


@pytest.mark.parametrize('split', ['select', 'test'])
def test_held_out_too_short(split, tmp_path):
  path = write(tmp_path / 'a.txt', 'a' * 100)
  config = make_config(path, **{f'{split}_chars': 1})
  assert message(config, tmp_path) == (
    f'data: the {split} split has 1 tokens, fewer than 2; give more text or '
    f'raise data.{split}_fraction'
  )


# TFDS.


def test_tfds_round_trip(tmp_path):
  folder = prepare.prepare(
    [write_documents(tmp_path / 'text')], tmp_path / 'tfds'
  )
  from_text = text.read(make_config(tmp_path / 'text').data)
  config = make_config(folder, source='tfds')
  loaded = data.load(config, tmp_path)
  assert loaded.source == 'tfds'
  for name, tokens in loaded.splits.items():
    found = tokens.astype(np.uint8).tobytes().decode().split('\0')
    assert sorted(found) == sorted(from_text[name])
  assert data.load(config, tmp_path).sha256 == loaded.sha256
  with pytest.raises(ConfigError, match='already exists'):
    prepare.prepare([tmp_path / 'text'], tmp_path / 'tfds')


def write_tfds(
  data_dir,
  features=('text',),
  splits=('train', 'validation'),
  file_format='array_record',
):
  import tensorflow_datasets as tfds  # slow, and only these tests need it

  class Foreign(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(
          {f: tfds.features.Text() for f in features}
        ),
      )

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples() for split in splits}

    def _generate_examples(self):
      for i in range(3):
        yield i, {f: 'some text' for f in features}

  builder = Foreign(data_dir=data_dir, file_format=file_format)
  builder.download_and_prepare()
  return str(builder.data_path)


def test_tfds_errors(tmp_path):
  def failure(*paths):
    return message(make_config(*paths, source='tfds'), tmp_path)

  assert failure() == ('data.path=() must be one TFDS folder or builder name')
  empty = str(tmp_path)
  assert failure(empty) == (
    f'data.path: {empty!r} is no prepared TFDS folder; prepare one with '
    'python -m ease_jax.data.prepare'
  )
  assert failure('no_such_dataset') == (
    "data.path: 'no_such_dataset' is no prepared TFDS folder or builder; "
    'prepare one with python -m ease_jax.data.prepare'
  )
  untexted = write_tfds(tmp_path / 'untexted', features=('title',))
  assert failure(untexted) == (
    f"data.path: {untexted!r} has no feature 'text', only title; choose a "
    'text dataset'
  )
  untested = write_tfds(tmp_path / 'untested')
  assert failure(untested) == (
    f'data.path: {untested!r} has no split test, only train, validation; '
    'prepare it with that split'
  )


def test_tfds_validation_stands_for_select(tmp_path):
  splits = ('train', 'validation', 'test')
  folder = write_tfds(tmp_path / 'tfds', splits=splits)
  loaded = data.load(make_config(folder, source='tfds'), tmp_path)
  assert len(loaded.splits['select']) == 3 * len('some text\0') - 1


def test_tfds_file_format(tmp_path):
  folder = write_tfds(tmp_path / 'tfds')
  info = pathlib.Path(folder) / 'dataset_info.json'
  write(info, info.read_text().replace('array_record', 'tfrecord'))
  config = make_config(folder, source='tfds')
  assert message(config, tmp_path) == (
    f"data.path: {folder!r} has file format 'tfrecord'; prepare it with "
    "file_format='array_record'"
  )


def test_prepare_reports_an_error_in_one_line(tmp_path):
  path = str(tmp_path / 'absent.txt')
  with pytest.raises(SystemExit) as caught:
    prepare.main([f'--out={tmp_path}', path])
  assert str(caught.value) == (
    f'error: path: {path!r} does not exist; correct the path'
  )
