"""Turns text files into a TFDS folder that `data.source=tfds` reads.

  python -m ease_jax.data.prepare --out=DIR FILE...

It prints the folder to use as `data.path`. FILE may be a folder or a glob.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

from ease_jax.checks import ConfigError


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
    ConfigError: the text cannot be read, or data_dir already has a corpus.
  """
  from ease_jax.data.text_corpus import text_corpus_dataset_builder as corpus

  files = corpus.TextCorpusConfig(
    paths=tuple(map(os.fspath, paths)),
    select_fraction=select_fraction,
    test_fraction=test_fraction,
  )
  builder = corpus.Builder(
    data_dir=os.fspath(data_dir), file_format='array_record', config=files
  )
  folder = os.fspath(builder.data_path)
  if pathlib.Path(folder).exists():  # TFDS would keep the old text unasked
    raise ConfigError(f'{folder!r} already exists; choose another folder')
  builder.download_and_prepare()
  return folder


def main(argv: Sequence[str] | None = None) -> None:
  """The command line.

  Args:
    argv: arguments without the program's name; None = those of this process.
  """
  parser = argparse.ArgumentParser(
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
  except ConfigError as error:
    sys.exit(f'error: {error}')
  print(folder)


if __name__ == '__main__':
  main()
