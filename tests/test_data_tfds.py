"""Datasets of TFDS: prepared by this package or by others."""

import pathlib

import numpy as np
import pytest

from ease_jax import config, data
from ease_jax.checks import ConfigError
from ease_jax.data import corpus, prepare, text


def make_spec(*paths, source='tfds'):
  section = config.base().data
  section.source = source
  section.path = tuple(map(str, paths))
  section.seq_len = 8
  return data.DataSpec.from_config(section)


def failure(workdir, *paths):
  with pytest.raises(ConfigError) as caught:
    corpus.load(make_spec(*paths), workdir)
  return str(caught.value)


def write_documents(folder, count=40):
  """Documents of one length, each recognisable in the text."""
  folder.mkdir()
  for i in range(count):
    content = f'document {i:02} ' + 'lorem ipsum ' * 5
    (folder / f'{i:02}.txt').write_text(content)
  return folder


def write_dataset(
  data_dir,
  features=('text',),
  splits=('train', 'validation'),
  file_format='array_record',
):
  """A dataset of three examples per split that somebody else has prepared."""
  import tensorflow_datasets as tfds  # slow, and only these tests need it

  texts = {feature: tfds.features.Text() for feature in features}
  example = {feature: 'some text' for feature in features}

  class Foreign(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(texts)
      )

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples() for split in splits}

    def _generate_examples(self):
      for i in range(3):
        yield i, example

  builder = Foreign(data_dir=data_dir, file_format=file_format)
  builder.download_and_prepare()
  return str(builder.data_path)


def test_a_prepared_folder_holds_the_documents_of_its_files(tmp_path):
  files = write_documents(tmp_path / 'text')
  folder = prepare.prepare([files], tmp_path / 'tfds')
  expected = text.read_files(make_spec(files, source='text'))

  loaded = corpus.load(make_spec(folder), tmp_path)
  assert loaded.source == 'tfds'
  for name, tokens in loaded.splits.items():
    documents = tokens.astype(np.uint8).tobytes().decode().split('\0')
    assert sorted(documents) == sorted(expected[name])
  again = corpus.load(make_spec(folder), tmp_path)
  assert again.sha256 == loaded.sha256


def test_a_folder_is_not_prepared_twice(tmp_path):
  files = write_documents(tmp_path / 'text')
  prepare.prepare([files], tmp_path / 'tfds')
  with pytest.raises(ConfigError, match='already exists'):
    prepare.prepare([files], tmp_path / 'tfds')


def test_one_path_is_needed(tmp_path):
  assert failure(tmp_path) == (
    'data.path=() must be one TFDS folder or builder name'
  )


def test_a_folder_that_is_no_dataset_is_named(tmp_path):
  folder = str(tmp_path)
  assert failure(tmp_path, folder) == (
    f'data.path: {folder!r} is no prepared TFDS folder; prepare one with '
    'python -m ease_jax.data.prepare'
  )


def test_the_home_of_nobody(tmp_path):
  assert 'no home of such a user' in failure(tmp_path, '~no_such_user/x')


def test_an_unknown_dataset_is_named(tmp_path):
  assert failure(tmp_path, 'no_such_dataset') == (
    "data.path: 'no_such_dataset' is no prepared TFDS folder or builder; "
    'prepare one with python -m ease_jax.data.prepare'
  )


def test_a_dataset_without_text_is_named(tmp_path):
  folder = write_dataset(tmp_path / 'tfds', features=('title',))
  assert failure(tmp_path, folder) == (
    f"data.path: {folder!r} has no feature 'text', only title; choose a "
    'text dataset'
  )


def test_a_missing_split_is_named(tmp_path):
  folder = write_dataset(tmp_path / 'tfds', splits=('train', 'validation'))
  assert failure(tmp_path, folder) == (
    f'data.path: {folder!r} has no split test, only train, validation; '
    'prepare it with that split'
  )


def test_validation_stands_for_select(tmp_path):
  splits = ('train', 'validation', 'test')
  folder = write_dataset(tmp_path / 'tfds', splits=splits)
  loaded = corpus.load(make_spec(folder), tmp_path)
  assert len(loaded.splits['select']) == 3 * len('some text\0') - 1


def test_another_file_format_is_named(tmp_path):
  folder = write_dataset(tmp_path / 'tfds')
  info = pathlib.Path(folder) / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  assert failure(tmp_path, folder) == (
    f"data.path: {folder!r} has file format 'tfrecord'; prepare it with "
    "file_format='array_record'"
  )


@pytest.mark.parametrize(
  'arguments, problem',
  [
    (['absent.txt'], "FILE: 'absent.txt' does not exist; correct the path"),
    ([''], "FILE=('',) holds '', which is empty; give a text"),
    (
      ['a.txt', '--out=a.txt'],
      "--out='a.txt' is no folder; name one, or a new one",
    ),
    (['a.txt', '--out='], '--out is empty; give a path'),
    (
      ['a.txt', '--out=a.txt/below'],
      "[Errno 20] Not a directory: 'a.txt/below'",
    ),
    (
      ['a.txt', '--select_fraction=nan'],
      '--select_fraction=nan must be a finite number',
    ),
    (
      ['a.txt', '--test_fraction=-1'],
      '--test_fraction=-1.0 must be above 0',
    ),
    (
      ['a.txt', '--test_fraction=half'],
      "argument --test_fraction: invalid float value: 'half'",
    ),
    ([], 'the following arguments are required: FILE'),
    (
      ['a.txt', '--test_fraction=0.01'],
      'FILE: 12 characters leave nothing for the split test; give more text '
      'or other fractions',
    ),
  ],
)
def test_prepare_reports_an_error_in_one_line(
  arguments, problem, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  pathlib.Path('a.txt').write_text('a dozen of a')
  with pytest.raises(SystemExit) as caught:
    prepare.main(['--out=out', *arguments])
  assert str(caught.value) == f'error: {problem}'
  assert capsys.readouterr().out == ''
  assert [path.name for path in tmp_path.iterdir()] == ['a.txt']


def test_an_interrupted_prepare_keeps_what_was_there(
  tmp_path, monkeypatch, capsys
):
  def interrupt(*arguments):
    (tmp_path / 'tfds' / 'text_corpus').mkdir()
    raise KeyboardInterrupt

  files = write_documents(tmp_path / 'text')
  (tmp_path / 'tfds' / 'mine').mkdir(parents=True)
  monkeypatch.setattr(prepare.contextlib, 'redirect_stdout', interrupt)
  with pytest.raises(SystemExit) as caught:
    prepare.main([f'--out={tmp_path / "tfds"}', str(files)])
  assert caught.value.code == 'error: interrupted; nothing was made'
  assert [path.name for path in (tmp_path / 'tfds').iterdir()] == ['mine']


@pytest.mark.parametrize(
  'paths, out, problem',
  [
    ('a.txt', 'out', "FILE='a.txt' is str; give a list of paths"),
    (None, 'out', 'FILE=None is NoneType; give a list of paths'),
    (['a.txt'], None, '--out=None is NoneType, not a path; give a str'),
  ],
)
def test_prepare_takes_a_list_and_a_folder(paths, out, problem):
  with pytest.raises(ConfigError) as caught:
    prepare.prepare(paths, out)
  assert str(caught.value) == problem


def test_prepare_prints_the_folder_and_nothing_else(tmp_path, capfd):
  files = write_documents(tmp_path / 'text')
  prepare.main([f'--out={tmp_path / "tfds"}', str(files)])
  out, err = capfd.readouterr()
  assert out == f'{tmp_path}/tfds/text_corpus/files/1.0.0\n'
  assert '[text: 40 files, 2,880 characters]' in err


def test_a_damaged_file_is_named(tmp_path):
  folder = write_dataset(
    tmp_path / 'tfds', splits=('train', 'validation', 'test')
  )
  (record,) = pathlib.Path(folder).glob('*-train.array_record*')
  record.write_bytes(record.read_bytes()[:40])
  assert failure(tmp_path, folder) == (
    f"data.path: {folder!r}, a document of 'train' cannot be read; prepare it "
    'again'
  )
