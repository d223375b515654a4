"""Turns text files into a TFDS folder that `data.source=tfds` reads.

  python -m ease_jax.data.prepare --out=DIR FILE...

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
from typing import NoReturn

from ease_jax.checks import ConfigError, check_value, need
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


def main(argv: Sequence[str] | None = None) -> None:
  """The command line.

  Args:
    argv: arguments without the program's name; None = those of this process.
  """
  parser = _Parser(
    prog='python -m ease_jax.data.prepare',
    description='Turns text files into a TFDS folder.',
  )
  parser.add_argument('paths', nargs='+', metavar='FILE')
  parser.add_argument('--out', required=True, metavar='DIR')
  parser.add_argument('--select_fraction', type=float, default=0.05)
  parser.add_argument('--test_fraction', type=float, default=0.05)
  args = parser.parse_args(argv)
  try:
    folder = prepare(
      args.paths,
      args.out,
      select_fraction=args.select_fraction,
      test_fraction=args.test_fraction,
    )
  except (ConfigError, OSError) as error:
    sys.exit(f'error: {" ".join(str(error).split())}')
  except KeyboardInterrupt:
    sys.exit('error: interrupted; nothing was made')
  print(folder)


if __name__ == '__main__':
  main()
