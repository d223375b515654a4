"""The built-in corpus: the running Python's standard library.

Two kinds of text would make it look easier than it is, and are left out: the
tables of `encodings`, which are characters and not prose, and modules that are
copies of others in part, so that a held-out one would repeat one of train.
"""

import os
import pathlib
import sysconfig
from collections.abc import Iterator, Sequence

from ease_jax.data.files import Document
from ease_jax.data.spec import DataSpec
from ease_jax.data.text import Splits, split

LEFT_OUT = frozenset(
  {
    'site-packages',
    'dist-packages',
    '__pycache__',
    'test',
    'tests',
    'idle_test',
    'encodings',  # tables of characters, a tenth of all text
  }
)
RUN_LINES = 20  # a page of these that two modules share makes one a copy


def read(spec: DataSpec) -> Splits:
  """The modules, each once, split."""
  return split(documents(), spec.select_fraction, spec.test_fraction)


def documents() -> list[Document]:
  """Source files of the running Python's standard library, by name."""
  root = pathlib.Path(sysconfig.get_path('stdlib'))
  found = []
  for name, path in sorted(_files(root)):
    try:
      text = path.read_bytes().decode('utf-8')
    except UnicodeDecodeError:  # a few files declare another encoding
      continue
    if text:
      found.append(Document(name, text))
  return without_copies(found)


def without_copies(found: Sequence[Document]) -> list[Document]:
  """Those that share no long run of lines with an earlier one that is kept.

  Blank lines and indentation do not count.
  """
  number_of: dict[str, int] = {}
  seen: set[int] = set()
  kept = []

  for document in found:
    lines = [line.strip() for line in document.text.splitlines()]
    numbers = [
      number_of.setdefault(line, len(number_of)) for line in lines if line
    ]
    runs = {
      hash(tuple(numbers[i : i + RUN_LINES]))
      for i in range(len(numbers) - RUN_LINES + 1)
    }
    if seen.isdisjoint(runs):
      kept.append(document)
      seen |= runs
  return kept


def _files(root: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
  for folder, subfolders, names in os.walk(root):
    subfolders[:] = set(subfolders) - LEFT_OUT
    for name in names:
      if name.endswith('.py'):
        path = pathlib.Path(folder, name)
        yield path.relative_to(root).as_posix(), path
