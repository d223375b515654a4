"""Text of files: each is read, or a line says why it is not."""

import math
import os

import numpy as np
import pytest
from small_run import make_spec

from ease_jax import data
from ease_jax.checks import ConfigError
from ease_jax.data import corpus, files, text, tokenizers


def read(*paths):
  """The documents by name, and the line that is said."""
  account = files.Account()
  found = files.find(tuple(map(str, paths)), 'data.path', account)
  documents = files.load(found, 'data.path', account)
  return dict(documents), str(account)


def refusal(path):
  with pytest.raises(ConfigError) as caught:
    read(path)
  assert str(caught.value).isprintable()
  return str(caught.value)


def test_a_count_is_said_once_and_not_on_standard_output(tmp_path, capsys):
  for name in ('a', 'b', 'c'):
    (tmp_path / f'{name}.txt').write_text(name * 1000)
  spec = make_spec(
    tmp_path / 'a.txt',
    select_path=(str(tmp_path / 'b.txt'),),
    test_path=(str(tmp_path / 'c.txt'),),
  )
  text.read_files(spec)
  out, err = capsys.readouterr()
  assert (out, err) == ('', '[text: 3 files, 3,000 characters]\n')


def test_links_are_followed_and_read_once(tmp_path):
  inside = tmp_path / 'inside'
  outside = tmp_path / 'outside'
  for folder in (inside, outside):
    folder.mkdir()
  (inside / 'a.txt').write_text('aa')
  (outside / 'b.txt').write_text('bbb')
  (inside / 'folder').symlink_to(outside)
  (inside / 'again.txt').symlink_to(inside / 'a.txt')
  (inside / 'circle').symlink_to(inside)
  (inside / 'broken.txt').symlink_to(tmp_path / 'nowhere')

  documents, line = read(inside)
  assert documents == {'a.txt': 'aa', 'folder/b.txt': 'bbb'}
  assert line == (
    '2 files, 5 characters; links to nothing, left out: 1; files named again, '
    'read once: 1'
  )


def test_what_is_left_out_of_a_folder_is_counted(tmp_path):
  (tmp_path / 'a.txt').write_text('aa')
  (tmp_path / 'empty.txt').write_text('')
  for name in ('b.md', 'c.md', 'Makefile'):
    (tmp_path / name).write_text('not read')
  os.mkfifo(tmp_path / 'pipe.txt')

  documents, line = read(tmp_path)
  assert documents == {'a.txt': 'aa'}
  for part in (
    '1 files, 2 characters',
    '*.md files in folders, left out: 2',
    'nameless files in folders, left out: 1',
    'pipes and devices, left out: 1',
    'empty files, left out: 1',
  ):
    assert part in line

  (tmp_path / 'folder').mkdir()
  documents, line = read(tmp_path / '*')
  assert len(documents) == 4  # a glob names any file
  assert 'folders, left out: 1' in line


def test_a_line_stays_a_line(tmp_path):
  (tmp_path / 'a.txt').write_text('aa')
  for number in range(20):
    (tmp_path / f'x.{number}').write_text('')
  _, line = read(tmp_path)
  assert line.count(';') == files.MAX_NOTES + 1
  assert line.endswith('others, left out: 12')


def test_marks_and_line_ends_are_noted(tmp_path):
  (tmp_path / 'a.txt').write_bytes(b'\xef\xbb\xbfone\r\ntwo\r\n')
  documents, line = read(tmp_path)
  assert documents == {'a.txt': 'one\r\ntwo\r\n'}
  assert line == (
    '1 files, 10 characters; byte-order marks, left out: 1; files with \\r in '
    'line ends, kept: 1'
  )


@pytest.mark.parametrize(
  'raw, problem',
  [
    (b'caf\xe9', 'is not UTF-8 at byte 3; convert it to UTF-8'),
    ('text'.encode('utf-16'), 'is not UTF-8 at byte 0; convert it to UTF-8'),
    (
      'text'.encode('utf-16-le'),
      'has a NUL at character 1, as no text has; remove it, or convert UTF-16 '
      'to UTF-8',
    ),
    (
      b'ab\0',
      'has a NUL at character 2, as no text has; remove it, or convert UTF-16 '
      'to UTF-8',
    ),
  ],
)
def test_what_is_no_text_is_refused(raw, problem, tmp_path):
  path = tmp_path / 'a.txt'
  path.write_bytes(raw)
  assert refusal(path) == f'data.path: {str(path)!r} {problem}'


def test_a_pipe_is_refused():
  """Such as <(zcat FILE), which only the first reader could read."""
  reading, writing = os.pipe()
  path = f'/dev/fd/{reading}'
  problem = refusal(path)
  os.close(reading)
  os.close(writing)
  assert problem == (
    f'data.path: {path!r} is a pipe or a device, which a resumed run cannot '
    'read again; save its text in a file'
  )


@pytest.mark.parametrize('tokenizer', ['byte', 'char', 'bpe'])
def test_half_a_character_is_refused(tokenizer):
  fitted = tokenizers.fit(tokenizer, ['caf\xe9'], 300)
  with pytest.raises(ConfigError) as error:
    fitted.encode('caf\udce9')  # as Python reads arguments that are no UTF-8
  assert str(error.value) == (
    'the text is not UTF-8 at character 3; convert it to UTF-8'
  )


def test_a_nul_does_not_end_a_document():
  with pytest.raises(ConfigError) as error:
    tokenizers.Byte().encode('ab\0c')
  assert str(error.value) == (
    'the text has a NUL at character 2, which ends a document of bytes; '
    'remove it'
  )
  for kind in ('char', 'bpe'):
    fitted = tokenizers.fit(kind, ['ab\0c'], 300)
    assert fitted.eos_id not in fitted.encode('ab\0c')


def test_a_long_fit_and_a_short_vocabulary_are_said(capsys, monkeypatch):
  monkeypatch.setattr(tokenizers, 'SLOW_TO_FIT', 10)
  fitted = tokenizers.fit('bpe', ['a text of some length'], 300)
  assert fitted.vocab_size < 300
  assert capsys.readouterr().err.splitlines() == [
    '[fitting 300 byte pairs to 21 characters; minutes where the text has no '
    'spaces]',
    f'[the text has pairs for {fitted.vocab_size} tokens, fewer than '
    'data.vocab_size=300]',
  ]


# Characters that a vocabulary has not.

UNKNOWN = 'abé日🤖\x7fab'  # of 2, 3, 4 bytes and of 1


@pytest.fixture
def foreign(tmp_path, capsys):
  """A task whose test text has characters that train has not."""
  (tmp_path / 'a.txt').write_text('ab' * 100)
  (tmp_path / 'b.txt').write_text(UNKNOWN)
  (tmp_path / 'c.txt').write_text('ba')
  (tmp_path / 'd.txt').write_text('bb')
  spec = make_spec(
    tmp_path / 'a.txt',
    tokenizer='char',
    select_path=(str(tmp_path / 'c.txt'),),
    test_path=(str(tmp_path / 'b.txt'), str(tmp_path / 'd.txt')),
  )
  task = data.LanguageModelling(corpus.load(spec, tmp_path), 8)
  return task, capsys.readouterr().err


def test_unknown_characters_are_said(foreign):
  _, err = foreign
  assert err.splitlines()[1:] == [
    '[test: 4 of 11 characters are not in the vocabulary of train and read as '
    "<unk>; 4 kinds, such as '\\x7fé日🤖']"
  ]


def test_an_unknown_character_counts_its_bytes(foreign):
  """Bits per byte are of the text, not of what is left of it."""
  task, _ = foreign
  (batch,) = task.eval_batches('test', 2)
  mask_RxT = batch['mask']
  assert batch['targets'].max() < task.vocab_size
  nll_RxT = np.full(mask_RxT.shape, 1.5)
  right = nll_RxT > 0

  quality = task.quality(nll_RxT, right, mask_RxT, batch['scored'])
  num_bytes = len(f'{UNKNOWN}|bb'[1:].encode())  # the first is not predicted
  bits = 1.5 * mask_RxT.sum() / math.log(2)
  assert quality['bits_per_byte'] == pytest.approx(bits / num_bytes)
  assert quality['ppl'] == pytest.approx(math.exp(1.5))

  unknown = batch['scored'][batch['scored'] >= task.vocab_size]
  assert [task.token_text(token) for token in unknown] == ['<unk>'] * 4


def test_the_beginning_of_a_split_counts_the_same(foreign):
  task, _ = foreign
  (batch,) = task.beginning('test', 3).eval_batches('test', 1)
  assert batch['mask'].sum() == 3
  scored = batch['scored'][batch['mask'] > 0]
  assert (scored >= task.vocab_size).tolist() == [False, True, True]
  (batch,) = task.eval_batches('select', 1)
  assert 'scored' not in batch
