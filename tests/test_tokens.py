"""Prepared tokens: the same batches as of the text, of which little is read."""

import itertools
import json
import pathlib
import shutil

import numpy as np
import pytest

from ease_jax import arrays, config, data
from ease_jax.checks import ConfigError
from ease_jax.data import (
  pipeline,
  prepare,
  text_pieces,
  text_plan,
  token_files,
  token_views,
  tokenizers,
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


def test_what_is_written_does_not_depend_on_the_number_of_processes(tmp_path):
  texts = write_texts(tmp_path / 'texts', 3)
  for workers in (1, 2):
    made = recipe(texts, tokenizer='char', workers=workers)
    prepare.prepare_tokens(made, tmp_path / str(workers))
  files = {path.name: path for path in (tmp_path / '1').iterdir()}
  assert {path.name for path in (tmp_path / '2').iterdir()} == set(files)
  for name, path in files.items():
    assert path.read_bytes() == (tmp_path / '2' / name).read_bytes()


def test_each_split_may_have_files_of_its_own(tmp_path):
  texts = write_texts(tmp_path / 'texts', 3)
  own = {}
  for name in ('select', 'test'):
    path = tmp_path / f'{name}.txt'
    path.write_bytes(b'\xef\xbb\xbf' + f'of {name} alone'.encode())
    own[f'{name}_path'] = (str(path),)
  folder = prepare.prepare_tokens(
    recipe(texts, tokenizer='byte', **own), tmp_path / 'tokens'
  )
  found = load((folder,))
  assert found.decode(found.corpus.splits['test'][:]) == 'of test alone'
  assert (
    found.splits
    == data.load(make_spec(source='text', path=(texts,), **own)).splits
  )


def test_documents_of_tfds_become_the_same_tokens(tmp_path):
  texts = write_texts(tmp_path / 'texts', 30)
  dataset = prepare.prepare([texts], tmp_path / 'tfds')
  folder = prepare.prepare_tokens(
    recipe(dataset, source='tfds', tokenizer='byte'), tmp_path / 'tokens'
  )
  expected = data.load(make_spec(source='tfds', path=(dataset,)))
  found = load((folder,))
  assert len(found.corpus.splits['train'].parts) > 1
  assert found.splits == expected.splits
  for split in data.SPLITS:
    assert_same_batches(
      found.eval_batches(split, 3), list(expected.eval_batches(split, 3))
    )


@pytest.mark.parametrize('piece_bytes', [1, 2, 3, 7, 50])
@pytest.mark.parametrize('kind', ['byte', 'char', 'bpe'])
def test_pieces_of_a_document_have_its_tokens(tmp_path, kind, piece_bytes):
  text = (
    "it's  a \n\n  naïve\t你好 \u3000x \x1c y\u00a0 z 12  3!? " * 3
  ).strip()
  path = tmp_path / 'a.txt'
  path.write_text(text)
  tokenizer = tokenizers.fit(kind, [text * 9], 300)
  scanned = text_pieces.scan(
    path, field='FILE', whole=False, piece_bytes=piece_bytes
  )
  document = text_pieces.Document('a', path, scanned.marks)
  pieces = list(document.pieces(0, len(text)))
  assert len(pieces) > 1
  assert [piece.is_first for piece in pieces].index(False) == 1
  tokens = [tokenizer.encode(piece.read()) for piece in pieces]
  np.testing.assert_array_equal(np.concatenate(tokens), tokenizer.encode(text))

  # A document may also begin and end anywhere else.
  for begin, end in ((1, 2), (3, 40), (9, len(text))):
    cut = list(document.pieces(begin, end))
    assert ''.join(piece.read() for piece in cut) == text[begin:end]


@pytest.mark.parametrize(
  'raw, problem',
  [
    (b'ab \xc3(', 'is not UTF-8 at byte 3; convert it to UTF-8'),
    (b'ab \xff', 'is not UTF-8 at byte 3; convert it to UTF-8'),
    (b'\xef\xbb\xbfab cd \xc3', 'is not UTF-8 at byte 9; convert it to UTF-8'),
    ('é é é\0'.encode(), 'has a NUL at character 5, as no text has; remove it'),
  ],
)
@pytest.mark.parametrize('piece_bytes', [1, 3, 100])
def test_what_is_no_text_is_named(tmp_path, raw, problem, piece_bytes):
  path = tmp_path / 'a.txt'
  path.write_bytes(raw)
  with pytest.raises(ConfigError) as caught:
    text_pieces.scan(path, field='FILE', whole=False, piece_bytes=piece_bytes)
  assert str(caught.value).startswith(f'FILE: {str(path)!r} {problem}')


def test_a_large_text_is_sampled_evenly_for_byte_pairs(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text(''.join(f'word{i:03}\n' for i in range(100)))
  scanned = text_pieces.scan(path, field='FILE', whole=False, piece_bytes=8)
  document = text_pieces.Document('a', path, scanned.marks)
  pieces = list(document.pieces(0, 800))
  assert ''.join(text_plan.sampled(pieces, 800)) == path.read_text()
  sample = ''.join(text_plan.sampled(pieces, 40))
  assert len(sample.encode()) <= 40
  assert 'word000' in sample and 'word080' in sample


# Reading.


def test_stretches_may_lie_in_several_arrays():
  arrays = tuple(np.arange(10)[a:b] for a, b in ((0, 3), (3, 4), (4, 10)))
  tokens = token_views.TokenFiles(arrays, vocab_size=8, unk_id=5)
  expected = np.array([0, 1, 2, 3, 4, 5, 6, 7, 5, 5], np.int32)
  assert len(tokens) == 10
  for start, stop in itertools.combinations(range(12), 2):
    stretch = tokens[start:stop]
    assert stretch.dtype == np.int32
    np.testing.assert_array_equal(stretch, expected[start:stop])


class Watched:
  """Tokens that tell the longest stretch that was read of them."""

  def __init__(self, length):
    self.length = length
    self.longest = 0

  def __len__(self):
    return self.length

  def __getitem__(self, stretch):
    start, stop, _ = stretch.indices(self.length)
    self.longest = max(self.longest, stop - start)
    return np.arange(start, stop).astype(np.int32)


def test_no_split_is_read_as_a_whole():
  tokens = Watched(10**15)
  batch = next(pipeline.train_iterator(tokens, 8, 4, seed=0))
  assert batch['tokens'].shape == (4, 8)
  batches = list(pipeline.eval_batches(tokens, 8, 4, max_tokens=64))
  assert len(batches) == 2
  assert tokens.longest == 9
  next(pipeline.eval_batches(tokens, 8, 4))
  numbers = token_views.DocumentNumbers(np.array([0, 9], np.uint64), 10**15)
  assert numbers[7:11].tolist() == [0, 0, 1, 1]


def test_batches_of_several_processes_are_those_of_one(monkeypatch):
  tokens = np.arange(1601, dtype=np.int32)

  def read(batch_size):
    parts = [tokens, tokens[:801] + 2000]
    return (
      pipeline.train_iterator(tokens, 8, batch_size, seed=3),
      pipeline.mixed_iterator(parts, (1.0, 2.0), 8, batch_size, seed=3),
    )

  for kind, alone in enumerate(read(6)):
    expected = [batch['tokens'] for batch in itertools.islice(alone, 60)]
    together = []
    for index in range(2):
      share = arrays.Share(index, 2)
      monkeypatch.setattr(arrays, 'own_share', lambda share=share: share)
      own = read(6)[kind]
      together.append([b['tokens'] for b in itertools.islice(own, 60)])
      assert own.get_state() == alone.get_state()
    for batch, *halves in zip(expected, *together, strict=True):
      np.testing.assert_array_equal(batch, np.concatenate(halves))
    monkeypatch.undo()


# Several folders.


def two_folders(tmp_path, **fields):
  first = write_texts(tmp_path / 'a', 4)
  second = write_texts(tmp_path / 'b', 9)
  made = {'tokenizer': 'char'} | fields
  one = prepare.prepare_tokens(recipe(first, **made), tmp_path / 'one')
  made = {'tokenizer_from': one} if fields == {} else made
  return one, prepare.prepare_tokens(recipe(second, **made), tmp_path / 'two')


def test_a_mixture_has_windows_by_weight_and_resumes(tmp_path):
  both = two_folders(tmp_path)
  fields = {'tokenizer': 'char', 'mixture_weights': (3.0, 1.0)}
  task = load(both, **fields)
  alone = [load((folder,), tokenizer='char') for folder in both]
  windows = []
  for part in alone:
    train = part.corpus.splits['train']
    starts = range(0, len(train) - SEQ_LEN, SEQ_LEN)
    windows.append({train[i : i + SEQ_LEN].tobytes() for i in starts})

  batches = task.train_batches(4, seed=0)
  rows = np.concatenate([next(batches)['tokens'] for _ in range(100)])
  number = sum(row.tobytes() in windows[0] for row in rows)
  assert 295 <= number <= 305
  assert all(row.tobytes() in windows[0] | windows[1] for row in rows)

  resumed = load(both, **fields).train_batches(4, seed=0)
  resumed.set_state(batches.get_state())
  assert_same_batches(resumed, batches, 5)

  # What is evaluated is one after the other, an eos between.
  tests = [part.corpus.splits['test'][:] for part in alone]
  eos = [task.eos_id]
  joined = task.corpus.splits['test'][:]
  np.testing.assert_array_equal(
    joined, np.concatenate([tests[0], eos, tests[1]])
  )
  found = np.concatenate(
    [b['document'][b['mask'] > 0] for b in task.eval_batches('test', 3)]
  )
  is_eos = joined == task.eos_id
  np.testing.assert_array_equal(found, (np.cumsum(is_eos) - is_eos)[1:])
  assert task.to_json()['sha256'] != alone[0].to_json()['sha256']
  other = load(both, **fields | {'mixture_weights': (1.0, 1.0)})
  assert task.to_json()['sha256'] != other.to_json()['sha256']


def test_texts_of_one_length_are_in_orders_of_their_own():
  tokens = np.arange(801, dtype=np.int32)
  batch = next(pipeline.mixed_iterator([tokens] * 2, (1.0, 1.0), 8, 40, 0))
  assert batch['tokens'][::2].tolist() != batch['tokens'][1::2].tolist()


# Errors.


def failure(function, *arguments, **fields):
  with pytest.raises(ConfigError) as caught:
    function(*arguments, **fields)
  return str(caught.value)


def test_other_tokenizers_are_refused(tmp_path):
  one, two = two_folders(tmp_path, tokenizer='bpe', vocab_size=270)
  weights = {'mixture_weights': (1.0, 1.0)}
  message = failure(load, (one, two), tokenizer='bpe', **weights)
  assert message.startswith(
    f'data.path: the tokens of {two} are of another tokenizer than {one} '
    '(vocab_sha256='
  )
  assert message.endswith(f'prepare the text with --tokenizer_from={one}')
  assert failure(load, (one,)) == (
    f"data.tokenizer='byte', but the tokens of {one} are of kind 'bpe'; set "
    'data.tokenizer to that'
  )
  run = tmp_path / 'run'
  run.mkdir()
  load((two,), tokenizer='bpe').save(run)
  message = failure(load, (one,), run, tokenizer='bpe')
  assert f'of another tokenizer than {run}/tokenizer.json' in message
  assert load((two,), run, tokenizer='bpe').vocab_size == 270


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  place = tmp_path_factory.mktemp('prepared')
  texts = write_texts(place / 'texts', 30, length=1000)
  made = recipe(texts, tokenizer='byte', shard_bytes=20_000)
  return prepare.prepare_tokens(made, place / 'tokens')


def damaged(folder, tmp_path, name, change):
  copy = shutil.copytree(folder, tmp_path / 'copy')
  path = copy / name
  path.write_bytes(change(path.read_bytes()))
  return str(copy), path


def flipped(place):
  def change(raw):
    return raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]

  return change


AGAIN = 'restore it, or prepare the text again'


def test_a_damaged_file_is_named(folder, tmp_path):
  name = 'train-00000.tokens'
  size = pathlib.Path(folder, name).stat().st_size
  assert size > 4 * token_files.SAMPLE_BYTES

  copy, path = damaged(folder, tmp_path / '1', name, lambda raw: raw[:-1])
  assert failure(load, (copy,)) == (
    f'data.path: {path} has {size - 1} bytes, and index.json says {size}; '
    f'{AGAIN}'
  )
  path.unlink()
  assert failure(load, (copy,)) == f'data.path: {path} is missing; {AGAIN}'

  for number, place in enumerate((0, size // 2, size - 1)):
    copy, path = damaged(folder, tmp_path / f'2{number}', name, flipped(place))
    assert failure(load, (copy,)) == (
      f'data.path: {path} is damaged, as a sample of it says; {AGAIN}'
    )

  # What no sample sees is found by reading all.
  copy, path = damaged(folder, tmp_path / '3', name, flipped(5000))
  load((copy,))
  assert failure(prepare.check, copy) == (
    f'{path} is damaged: its hash is not that of index.json; {AGAIN}'
  )


def test_a_damaged_index_or_tokenizer_is_named(folder, tmp_path):
  copy, path = damaged(
    folder, tmp_path / '1', 'index.json', lambda raw: raw[:-1]
  )
  assert failure(load, (copy,)) == (
    f"data.path: '{copy}': index.json is damaged; {AGAIN}"
  )
  index = json.loads(pathlib.Path(folder, 'index.json').read_text())
  index['splits']['train']['tokens'] += 1
  path.write_text(json.dumps(index))
  assert failure(load, (copy,)) == (
    f"data.path: '{copy}': index.json was changed, as its hash says; {AGAIN}"
  )
  path.write_text(json.dumps(index | {'format': 2}))
  assert failure(load, (copy,)) == (
    f"data.path: '{copy}' has format 2, and this version of ease_jax reads 1; "
    'prepare the text again'
  )
  copy, path = damaged(
    folder, tmp_path / '2', 'tokenizer.json', lambda raw: raw + b' '
  )
  assert failure(load, (copy,)) == (
    f'data.path: {path} is not the tokenizer that made the tokens beside it; '
    f'{AGAIN}'
  )


def test_what_is_no_folder_of_tokens_is_named(folder, tmp_path):
  nothing = str(tmp_path / 'x')
  assert failure(load, (nothing,)) == (
    f'data.path: {nothing!r} is no folder; correct the path'
  )
  assert 'as it has no index.json; make one with' in failure(
    load, (str(tmp_path),)
  )
  assert failure(load, ()) == (
    'data.path=() names no folder; data.source=tokens needs one'
  )
  for paths, weights in (((folder, folder), (1.0,)), ((folder,), (1.0,))):
    assert f'and data.path names {len(paths)} folders' in failure(
      load, paths, mixture_weights=weights
    )
  message = failure(load, (folder,), seq_len=10**6)
  assert 'the train split has' in message
  assert 'fewer than data.seq_len + 1 = 1000001' in message


@pytest.mark.parametrize(
  'arguments, problem',
  [
    (
      ['--tokenizer=word'],
      "--tokenizer='word' is unknown; use one of: , byte, char, bpe",
    ),
    (
      ['--tokenizer=byte', '--vocab_size=300'],
      '--vocab_size=300 does nothing without --tokenizer=bpe; leave it out',
    ),
    (
      ['--tokenizer=byte', '--source=tfds', '--test_path=a.txt'],
      "--test_path=('a.txt',) does nothing without --source=text; leave it out",
    ),
    (
      ['--vocab_size=300'],
      '--vocab_size does nothing without --tokenizer, which makes tokens; give '
      'that, or leave it out',
    ),
    (
      ['--check=x', '--workers=1'],
      'FILE, --out: nothing beside --check is of use but --workers; leave it '
      'out',
    ),
    (
      ['--tokenizer=byte', '--tokenizer_from=x'],
      "--tokenizer='byte' and --tokenizer_from='x': tokens are of one "
      'tokenizer; give one of the two',
    ),
    (
      ['--tokenizer_from=x'],
      "--tokenizer_from: 'x' does not exist; correct it",
    ),
    (
      ['--tokenizer=byte', '--test_fraction=0.01', '--workers=1'],
      'FILE leaves less than two tokens for the split test; give more text or '
      'other fractions',
    ),
    (
      ['--tokenizer=byte', '--out=a.txt'],
      "--out='a.txt' already exists; choose another folder",
    ),
  ],
)
def test_prepare_reports_an_error_in_one_line(
  arguments, problem, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  pathlib.Path('a.txt').write_text('a dozen of a')
  with pytest.raises(SystemExit) as caught:
    prepare.main(['a.txt', '--out=out', *arguments])
  assert str(caught.value) == f'error: {problem}'
  assert capsys.readouterr().out == ''
  assert [path.name for path in tmp_path.iterdir()] == ['a.txt']


def test_prepare_prints_the_folder_and_check_what_it_holds(tmp_path, capsys):
  texts = write_texts(tmp_path / 'texts', 3)
  out = tmp_path / 'tokens'
  prepare.main(['--tokenizer=byte', '--workers=1', f'--out={out}', texts])
  assert capsys.readouterr().out == f'{out}\n'
  prepare.main([f'--check={out}', '--workers=1'])
  said = capsys.readouterr().out
  assert said.endswith('tokens in 6 files are as index.json says\n')
