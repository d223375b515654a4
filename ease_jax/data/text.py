"""Documents of plain text and their split into train, select and test.

The same files give the same splits on every machine: nothing here depends on
where a folder lies, on the order a file system lists it, or on a seed.
"""

import glob
import hashlib
import os
import pathlib
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ease_jax.config import SPLITS, ConfigError

# With fewer documents than this, whole ones cannot match the fractions.
MIN_DOCUMENTS = 20
_NOT_LIBRARY = frozenset(
  {
    'site-packages',
    'dist-packages',
    '__pycache__',
    'test',
    'tests',
    'idle_test',
  }
)

Splits = dict[str, list[str]]


class Document(NamedTuple):
  """One text and a name that does not depend on the machine."""

  name: str
  text: str


def read(data: Any) -> Splits:
  """The documents of each split, as `config.data` asks for them.

  Args:
    data: `config.data` with source 'stdlib' or 'text'.

  Raises:
    ConfigError: a path is missing, empty, not UTF-8, or in two splits.
  """
  if data.source == 'stdlib':
    return split(stdlib(), data.select_fraction, data.test_fraction)
  fields = {'train': 'path', 'select': 'select_path', 'test': 'test_path'}
  files = {
    name: find(data[field], f'data.{field}')
    for name, field in fields.items()
    if name == 'train' or data[field]
  }
  _check_disjoint(files)
  documents = {
    name: load(found, f'data.{fields[name]}') for name, found in files.items()
  }
  parts = split(
    documents['train'],
    0.0 if 'select' in documents else data.select_fraction,
    0.0 if 'test' in documents else data.test_fraction,
  )
  for name in ('select', 'test'):
    if name in documents:
      parts[name] = [document.text for document in documents[name]]
  return parts


def stdlib() -> list[Document]:
  """Source files of the running Python's standard library, by name."""
  root = pathlib.Path(sysconfig.get_path('stdlib'))
  documents = []
  for name, path in sorted(_library_files(root)):
    try:
      text = path.read_bytes().decode('utf-8')
    except UnicodeDecodeError:  # a few files declare another encoding
      continue
    if text:
      documents.append(Document(name, text))
  return documents


def _library_files(
  root: pathlib.Path,
) -> Iterator[tuple[str, pathlib.Path]]:
  for folder, subfolders, names in os.walk(root):
    subfolders[:] = set(subfolders) - _NOT_LIBRARY
    for name in names:
      if name.endswith('.py'):
        path = pathlib.Path(folder, name)
        yield path.relative_to(root).as_posix(), path


def find(
  patterns: Sequence[str], field: str = 'path'
) -> dict[pathlib.Path, str]:
  """The files that patterns name, each once, and their document names.

  Args:
    patterns: files, folders (all *.txt below them) or globs.
    field: what the error message calls the patterns.

  Raises:
    ConfigError: a pattern names no file, or there is no pattern.
  """
  if not patterns:
    raise ConfigError(f'{field}=() names no file; give files, folders or globs')
  found: dict[pathlib.Path, str] = {}
  for pattern in patterns:
    path = pathlib.Path(pattern).expanduser()
    if path.is_dir():
      names = {p: p.relative_to(path).as_posix() for p in path.rglob('*.txt')}
    elif path.exists():
      names = {path: path.name}
    else:
      matches = map(pathlib.Path, glob.glob(str(path), recursive=True))
      names = {p: p.name for p in matches if p.is_file()}
    if not names:
      kind = 'holds no *.txt file' if path.is_dir() else 'does not exist'
      raise ConfigError(f'{field}: {pattern!r} {kind}; correct the path')
    for match in sorted(names, key=pathlib.Path.as_posix):
      found.setdefault(match.resolve(), names[match])
  return found


def load(files: Mapping[pathlib.Path, str], field: str) -> list[Document]:
  """Reads files, one document each; empty ones are left out.

  Raises:
    ConfigError: a file is unreadable or not UTF-8, or all of them are empty.
  """
  documents = [
    Document(name, _read_utf8(path, field)) for path, name in files.items()
  ]
  documents = [document for document in documents if document.text]
  if not documents:
    first = next(iter(files))
    raise ConfigError(
      f'{field}: {str(first)!r} is empty; give a file that has text'
    )
  return documents


def _read_utf8(path: pathlib.Path, field: str) -> str:
  try:
    return path.read_bytes().decode('utf-8')
  except UnicodeDecodeError as error:
    raise ConfigError(
      f'{field}: {str(path)!r} is not UTF-8 at byte {error.start}; '
      'convert it to UTF-8'
    ) from error
  except OSError as error:
    raise ConfigError(
      f'{field}: cannot read {str(path)!r}: {error.strerror}'
    ) from error


def _check_disjoint(files: Mapping[str, Mapping[pathlib.Path, str]]) -> None:
  owner: dict[pathlib.Path, str] = {}
  for name, found in files.items():
    for path in found:
      if path in owner:
        raise ConfigError(
          f'data: {str(path)!r} is in both {owner[path]} and {name}; '
          'name it in one of path, select_path and test_path'
        )
      owner[path] = name


def split(documents: Sequence[Document], select: float, test: float) -> Splits:
  """Splits documents; `select` and `test` are fractions of the characters.

  Whole documents move where there are enough of them. A few long ones are cut
  instead: train first, then select, then test.
  """
  fractions = {'select': select, 'test': test}
  if len(documents) >= MIN_DOCUMENTS:
    return _split_whole(documents, fractions)
  return _split_contiguous([document.text for document in documents], fractions)


def _split_whole(
  documents: Sequence[Document], fractions: Mapping[str, float]
) -> Splits:
  """Fills each held-out split with the first documents, by hash, that fit."""
  total = sum(len(document.text) for document in documents)
  room = {name: f * total for name, f in fractions.items() if f > 0}
  owner = ['train'] * len(documents)
  for i in sorted(range(len(documents)), key=lambda i: _hash(documents[i])):
    size = len(documents[i].text)
    owner[i] = next((name for name in room if size <= room[name]), 'train')
    if owner[i] != 'train':
      room[owner[i]] -= size
  for name in room:
    if name not in owner:  # every document is longer than the split should be
      train = [i for i, split in enumerate(owner) if split == 'train']
      owner[min(train, key=lambda i: len(documents[i].text))] = name
  return {
    name: [d.text for d, split in zip(documents, owner) if split == name]
    for name in SPLITS
  }


def _hash(document: Document) -> bytes:
  return hashlib.sha256(document.name.encode('utf-8', 'replace')).digest()


def _split_contiguous(
  texts: Sequence[str], fractions: Mapping[str, float]
) -> Splits:
  total = sum(map(len, texts))
  sizes = {name: round(f * total) for name, f in fractions.items()}
  train, rest = cut(texts, total - sum(sizes.values()))
  select, test = cut(rest, sizes['select'])
  return {'train': train, 'select': select, 'test': test}


def cut(texts: Sequence[str], size: int) -> tuple[list[str], list[str]]:
  """The first `size` characters and the rest, each still as documents."""
  head, tail = [], []
  for text in texts:
    head.append(text[:size])
    tail.append(text[size:])
    size = max(0, size - len(text))
  return [text for text in head if text], [text for text in tail if text]
