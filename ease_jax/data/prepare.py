"""Prepares texts that many runs read, or that no memory holds.

  python -m ease_jax.data.prepare --out=DIR FILE...
  python -m ease_jax.data.prepare --tokenizer=bpe --out=DIR FILE...
  python -m ease_jax.data.prepare --check=DIR

The first makes a TFDS folder of documents, which `data.source=tfds` reads; the
second a folder of tokens for `data.source=tokens`, made by several processes
out of files of any size or, with --source=tfds, the documents of a TFDS
dataset; the third reads all of such a folder and compares it with its hashes.

Standard output is the folder to use as `data.path` and nothing else; progress
goes to standard error. FILE may be a folder or a glob.
"""

import argparse
import contextlib
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from ease_jax import machine
from ease_jax.checks import ConfigError, check_value, need
from ease_jax.data import token_files, token_writer
from ease_jax.data.recipe import Recipe
from ease_jax.data.spec import Fraction, Paths
from ease_jax.files import expanded


def prepare(
  paths: Sequence[str],
  data_dir: str | os.PathLike[str],
  *,
  select_fraction: float = 0.05,
  test_fraction: float = 0.05,
) -> str:
  """Writes the documents of text files as array_record; returns the folder.

  Args:
    paths: files, folders or globs.
    data_dir: where TFDS keeps datasets; gets a folder `text_corpus`.
    select_fraction: share of the characters for the split select.
    test_fraction: the same for test.

  Raises:
    ConfigError: the text cannot be read or leaves a split empty, or data_dir
      is no folder or already has a corpus.
  """
  need(
    isinstance(paths, Sequence) and not isinstance(paths, (str, bytes)),
    f'FILE={paths!r} is {type(paths).__name__}; give a list of paths',
  )
  names = tuple(map(os.fspath, paths))
  check_value('FILE', names, Paths)
  check_value('--select_fraction', select_fraction, Fraction)
  check_value('--test_fraction', test_fraction, Fraction)
  place = expanded(data_dir, '--out')
  need(
    place.is_dir() or not place.exists(),
    f'--out={os.fspath(data_dir)!r} is no folder; name one, or a new one',
  )
  from ease_jax.data.text_corpus import text_corpus_dataset_builder as corpus

  files = corpus.TextCorpusConfig(
    paths=names,
    select_fraction=select_fraction,
    test_fraction=test_fraction,
  )
  builder = corpus.Builder(
    data_dir=os.fspath(place), file_format='array_record', config=files
  )
  folder = os.fspath(builder.data_path)
  if pathlib.Path(folder).exists():  # TFDS would keep the old text unasked
    raise ConfigError(f'{folder!r} already exists; choose another folder')
  with _all_or_nothing(pathlib.Path(folder)):
    with contextlib.redirect_stdout(sys.stderr):
      builder.download_and_prepare()
  return folder


def prepare_tokens(recipe: Recipe, out: str | os.PathLike[str]) -> str:
  """Writes the tokens of a text; returns the folder.

  Args:
    recipe: which text, and how it becomes tokens.
    out: the folder, which is made.

  Raises:
    ConfigError: the text cannot be read or leaves a split empty, or the folder
      is there already.
  """
  folder = expanded(out, '--out')
  if folder.exists():
    raise ConfigError(
      f'--out={str(folder)!r} already exists; choose another folder'
    )
  with _all_or_nothing(folder):
    folder.mkdir(parents=True)
    token_writer.write(recipe, folder)
  return str(folder)


def check(path: str, workers: int = 1) -> str:
  """Reads all of a folder of tokens; returns what it holds, in a line.

  Args:
    path: of the folder.
    workers: processes that read.

  Raises:
    ConfigError: a file is missing, or is not what it was.
  """
  opened = token_files.open_folder(path, '--check')
  paths = [opened.path / facts.file for facts in opened.files]
  with token_writer.mapping(workers) as run:
    for _ in run(token_files.check_whole, paths, opened.files):
      pass
  tokens = sum(split.total('tokens') for split in opened.splits.values())
  return (
    f'{opened.path}: {tokens:,} tokens in {len(paths)} files are as '
    f'{token_files.INDEX} says'
  )


@contextlib.contextmanager
def _all_or_nothing(folder: pathlib.Path) -> Iterator[None]:
  """What fails leaves no folder that was not there before."""
  missing = [path for path in (folder, *folder.parents) if not path.exists()]
  try:
    yield
  except BaseException:
    if missing:
      shutil.rmtree(missing[-1], ignore_errors=True)
    raise


class _Parser(argparse.ArgumentParser):
  """One line for what cannot be parsed, without the usage."""

  def error(self, message: str) -> NoReturn:
    sys.exit(f'error: {message}')


def _parser() -> _Parser:
  parser = _Parser(
    prog='python -m ease_jax.data.prepare',
    description='Turns text into a TFDS folder or, with --tokenizer, into '
    'tokens.',
  )
  parser.add_argument('paths', nargs='*', metavar='FILE')
  parser.add_argument('--out', metavar='DIR')
  parser.add_argument('--check', metavar='DIR')
  parser.add_argument('--workers', type=int)
  parser.add_argument('--select_fraction', type=float)
  parser.add_argument('--test_fraction', type=float)
  parser.add_argument('--source', help='text (files) or tfds')
  parser.add_argument('--tokenizer', help='byte, char or bpe')
  parser.add_argument('--tokenizer_from', metavar='DIR')
  parser.add_argument('--vocab_size', type=int)
  parser.add_argument('--sample_bytes', type=int)
  parser.add_argument('--shard_bytes', type=int)
  parser.add_argument('--select_path', action='append', metavar='FILE')
  parser.add_argument('--test_path', action='append', metavar='FILE')
  return parser


def _flag(name: str) -> str:
  return 'FILE' if name == 'paths' else f'--{name}'


def _run(given: dict[str, Any]) -> str:
  """Does what arguments that were given ask for; returns what is printed."""
  workers = given.pop('workers', len(machine.cores()))
  if 'check' in given:
    others = [_flag(name) for name in given if name != 'check']
    need(
      not others,
      f'{", ".join(others)}: nothing beside --check is of use but --workers; '
      'leave it out',
    )
    return check(given['check'], workers)

  out = given.pop('out')
  paths = given.pop('paths')
  if 'tokenizer' in given or 'tokenizer_from' in given:
    for name in ('select_path', 'test_path'):
      given[name] = tuple(given.get(name, ()))
    recipe = Recipe(tuple(paths), workers=workers, **given)
    return prepare_tokens(recipe, out)

  others = [_flag(name) for name in given if not name.endswith('_fraction')]
  need(
    not others,
    f'{", ".join(others)} does nothing without --tokenizer, which makes '
    'tokens; give that, or leave it out',
  )
  return prepare(paths, out, **given)


def main(argv: Sequence[str] | None = None) -> None:
  """The command line.

  Args:
    argv: arguments without the program's name; None = those of this process.
  """
  parser = _parser()
  given = {
    name: value
    for name, value in vars(parser.parse_args(argv)).items()
    if value not in (None, [])
  }
  if 'check' not in given:
    missing = [_flag(name) for name in ('paths', 'out') if name not in given]
    if missing:
      words = ', '.join(missing)
      parser.error(f'the following arguments are required: {words}')
  try:
    said = _run(given)
  except (ConfigError, OSError) as error:
    sys.exit(f'error: {" ".join(str(error).split())}')
  except KeyboardInterrupt:
    sys.exit('error: interrupted; nothing was made')
  print(said)


if __name__ == '__main__':
  main()
