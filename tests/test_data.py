"""Text, splits, tokens: what a `DataSpec` becomes."""

import numpy as np
import pytest
from small_run import make_spec

from ease_jax import config, data
from ease_jax.checks import ConfigError
from ease_jax.data import corpus, text, tokenizers


def write(path, content):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(content.encode() if isinstance(content, str) else content)
  return str(path)


def write_documents(folder, count=40):
  """Documents of one length, each recognisable in the text."""
  for i in range(count):
    write(folder / f'{i:02}.txt', f'document {i:02} ' + 'lorem ipsum ' * 5)
  return folder


def message(spec, workdir):
  with pytest.raises(ConfigError) as caught:
    corpus.load(spec, workdir)
  return str(caught.value)


def documents(count, size=50):
  return [text.Document(f'{i}', f'{i:03}'.ljust(size)) for i in range(count)]


# The spec.


@pytest.mark.parametrize(
  'fields, problem',
  [
    (
      {'source': 'web'},
      "data.source='web' is unknown; use one of: stdlib, text, tfds, tokens",
    ),
    (
      {'tokenizer': 'word'},
      "data.tokenizer='word' is unknown; use one of: byte, char, bpe, "
      'pretrained',
    ),
    ({'select_fraction': 0.0}, 'data.select_fraction=0.0 must be above 0'),
    ({'test_fraction': 0.5}, 'data.test_fraction=0.5 must be below 0.5'),
    ({'seq_len': 0}, 'data.seq_len=0 must be at least 1'),
  ],
)
def test_a_spec_refuses_what_it_cannot_do(fields, problem):
  with pytest.raises(ConfigError) as caught:
    make_spec(**fields)
  assert str(caught.value) == problem


def test_every_source_has_a_reader():
  for source in corpus.READERS:
    assert make_spec(source=source).source == source


# The fitted tokenizer.


def test_the_vocabulary_of_characters_is_of_the_training_split(tmp_path):
  spec = make_spec(
    write(tmp_path / 'train.txt', 'abcabcabcabc'),
    tokenizer='char',
    select_path=(write(tmp_path / 'select.txt', 'aXbY'),),
    test_path=(write(tmp_path / 'test.txt', 'ccZ'),),
  )
  loaded = corpus.load(spec, tmp_path)
  assert loaded.tokenizer.vocab_size == 5
  tokens = [loaded.tokenizer.token_text(i) for i in range(5)]
  assert tokens == ['<unk>', '<eos>', 'a', 'b', 'c']
  assert loaded.splits['select'].tolist() == [2, 0, 3, 0]
  assert loaded.splits['test'].tolist() == [4, 4, 0]
  assert loaded.tokenizer.decode([4, 4, 0]) == 'cc\ufffd'


def test_a_tokenizer_is_fitted_on_the_training_split(tmp_path, monkeypatch):
  spec = make_spec(
    write_documents(tmp_path / 'text'), tokenizer='bpe', vocab_size=300
  )
  fitted_on = []
  fit = tokenizers.Bpe.fit

  def noted_fit(*args):
    fitted_on.append(args)
    return fit(*args)

  monkeypatch.setattr(tokenizers.Bpe, 'fit', noted_fit)
  first = corpus.load(spec)
  assert fitted_on == [(text.read_files(spec)['train'], 300)]
  assert first.tokenizer.vocab_size == 300

  # That of a run is used again, and nothing is written.
  tokenizers.save(first.tokenizer, tmp_path / 'tokenizer.json')
  again = corpus.load(spec, tmp_path)
  assert len(fitted_on) == 1
  assert first.sha256 == again.sha256


@pytest.mark.parametrize('kind', ['byte', 'char', 'bpe'])
def test_loading_data_writes_nothing(tmp_path, kind):
  spec = make_spec(
    write_documents(tmp_path / 'text'), tokenizer=kind, vocab_size=300
  )
  (tmp_path / 'run').mkdir()
  corpus.load(spec, tmp_path / 'run')
  assert list((tmp_path / 'run').iterdir()) == []


def test_another_tokenizer_needs_another_workdir(tmp_path):
  folder = write_documents(tmp_path / 'text')
  tokenizers.save(tokenizers.Byte(), tmp_path / 'tokenizer.json')
  assert message(make_spec(folder, tokenizer='char'), tmp_path) == (
    f"data.tokenizer='char', but {tmp_path}/tokenizer.json is of kind "
    "'byte'; use another workdir"
  )


# Documents and splits.


@pytest.mark.parametrize('count', [20, 50, 400])
def test_many_documents_split_whole(count):
  docs = documents(count)
  splits = text.split(docs, 0.1, 0.2)
  assert sorted(sum(splits.values(), [])) == [d.text for d in docs]
  assert len(splits['select']) == count // 10
  assert len(splits['test']) == count // 5
  assert splits == text.split(docs, 0.1, 0.2)


def test_a_split_depends_on_names_not_on_order():
  docs = documents(50)
  splits = text.split(docs, 0.1, 0.1)
  mirrored = text.split(docs[::-1], 0.1, 0.1)
  for name in splits:
    assert set(splits[name]) == set(mirrored[name])


def test_no_held_out_split_is_empty_or_swallows_the_text():
  docs = documents(20)
  docs[7] = text.Document('long', 'x' * 100_000)
  splits = text.split(docs, 0.0001, 0.0001)
  assert len(splits['select']) == len(splits['test']) == 1
  assert docs[7].text in splits['train']


@pytest.mark.parametrize('count', [1, 3, 19])
def test_few_documents_split_contiguously(count):
  docs = documents(count, size=100)
  splits = text.split(docs, 0.1, 0.2)
  whole = ''.join(d.text for d in docs)
  joined = {name: ''.join(texts) for name, texts in splits.items()}
  assert joined['train'] + joined['select'] + joined['test'] == whole
  assert len(joined['select']) == 10 * count
  assert len(joined['test']) == 20 * count


def test_a_cut_keeps_documents():
  assert text.cut(['abc', 'def'], 4) == (['abc', 'd'], ['ef'])
  assert text.cut(['abc', 'def'], 3) == (['abc'], ['def'])
  assert text.cut(['abc'], 9) == (['abc'], [])


def test_loaded_splits_hold_whole_documents_once(tmp_path):
  spec = make_spec(write_documents(tmp_path / 'text'))
  loaded = corpus.load(spec, tmp_path)
  titles = []
  for tokens in loaded.splits.values():
    pieces = tokens.astype(np.uint8).tobytes().split(b'\0')
    assert all(piece.endswith(b'lorem ipsum ') for piece in pieces)
    titles += [piece[:11].decode() for piece in pieces]
  assert sorted(titles) == [f'document {i:02}' for i in range(40)]
  sizes = [len(tokens) for tokens in loaded.splits.values()]
  assert sizes == [36 * 73 - 1, 2 * 73 - 1, 2 * 73 - 1]


def test_location_changes_nothing_and_content_changes_the_hash(tmp_path):
  here = make_spec(write_documents(tmp_path / 'one'))
  elsewhere = make_spec(write_documents(tmp_path / 'elsewhere' / 'two'))
  sha256 = corpus.load(here, tmp_path).sha256
  assert corpus.load(elsewhere, tmp_path).sha256 == sha256
  write(tmp_path / 'one' / '00.txt', 'changed ' * 9)
  assert corpus.load(here, tmp_path).sha256 != sha256


def test_own_files_form_a_split_and_limits_truncate(tmp_path):
  write(tmp_path / 'b.md', 'b' * 100)
  paths = [write(tmp_path / 'a.txt', 'a' * 100), str(tmp_path / 'b*.md')]
  select_path = (write(tmp_path / 's.txt', 's' * 30),)
  limited = make_spec(
    *paths, select_path=select_path, train_chars=85, select_chars=7
  )
  splits = corpus.load(limited, tmp_path).splits
  assert bytes(splits['train'].tolist()) == b'a' * 85
  assert bytes(splits['select'].tolist()) == b's' * 7
  assert bytes(splits['test'].tolist()) == b'b' * 10
  # Nothing is held out of `path` for a split that has its own files.
  whole = make_spec(*paths, select_path=select_path)
  assert text.read_files(whole)['train'] == ['a' * 100, 'b' * 90]


def test_the_default_config_loads(tmp_path):
  section = config.base().data
  section.train_chars = 1000
  section.select_chars = 1000
  loaded = corpus.load(data.DataSpec.from_config(section), tmp_path)
  assert loaded.source == 'stdlib'
  assert len(loaded.splits['train']) >= 1000
  assert len(loaded.splits['test']) > 100_000


# Errors.


def test_no_path_is_named(tmp_path):
  assert message(make_spec(), tmp_path) == (
    'data.path=() names no file; give files, folders or globs'
  )


def test_a_missing_path_is_named(tmp_path):
  path = str(tmp_path / 'absent.txt')
  assert message(make_spec(path), tmp_path) == (
    f'data.path: {path!r} does not exist; correct the path'
  )


def test_a_missing_select_path_is_named(tmp_path):
  path = write(tmp_path / 'a.txt', 'a' * 99)
  spec = make_spec(path, select_path=('no/where*',))
  assert message(spec, tmp_path) == (
    "data.select_path: 'no/where*' does not exist; correct the path"
  )


def test_a_folder_without_text_is_named(tmp_path):
  assert message(make_spec(tmp_path), tmp_path) == (
    f"data.path: '{tmp_path}' holds no *.txt file; correct the path"
  )


def test_an_empty_file_is_named(tmp_path):
  path = write(tmp_path / 'empty.txt', '')
  assert message(make_spec(path), tmp_path) == (
    f'data.path: {path!r} is empty; give a file that has text'
  )


def test_a_file_of_another_encoding_is_named(tmp_path):
  path = write(tmp_path / 'latin.txt', b'caf\xe9 au lait')
  assert message(make_spec(path), tmp_path) == (
    f'data.path: {path!r} is not UTF-8 at byte 3; convert it to UTF-8'
  )


def test_a_file_of_two_names_is_one_file(tmp_path):
  path = write(tmp_path / 'a.txt', 'a' * 99)
  other = tmp_path / 'b.txt'
  other.hardlink_to(path)
  spec = make_spec(path, test_path=(str(other),))
  assert 'is in both data.path and data.test_path' in message(spec, tmp_path)


def test_a_file_in_two_splits_is_named(tmp_path):
  path = write(tmp_path / 'a.txt', 'a' * 99)
  spec = make_spec(tmp_path, test_path=(path,))
  assert message(spec, tmp_path) == (
    f'{path!r} is in both data.path and data.test_path; name it in one of them'
  )


def test_a_training_split_shorter_than_a_window_is_an_error(tmp_path):
  path = write(tmp_path / 'a.txt', 'a' * 100)
  assert message(make_spec(path, train_chars=8), tmp_path) == (
    'data: the train split has 8 tokens, fewer than data.seq_len + 1 = 9; '
    'give more text or lower data.seq_len'
  )
  corpus.load(make_spec(path, train_chars=9), tmp_path)


@pytest.mark.parametrize('split', ['select', 'test'])
def test_a_held_out_split_without_a_target_is_an_error(split, tmp_path):
  path = write(tmp_path / 'a.txt', 'a' * 100)
  spec = make_spec(path, **{f'{split}_chars': 1})
  assert message(spec, tmp_path) == (
    f'data: the {split} split has 1 tokens, fewer than 2; give more text or '
    f'raise data.{split}_fraction'
  )
