"""Documents of plain text and their split into train, select and test.

The same files give the same splits on every machine: nothing here depends on
where a folder lies, on the order a file system lists it, or on a seed.
"""

import glob
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ease_jax.checks import ConfigError
from ease_jax.data.spec import SPLITS, DataSpec

# With fewer documents than this, whole ones cannot match the fractions.
MIN_DOCUMENTS = 20

Splits = dict[str, list[str]]


class Document(NamedTuple):
  """One text and a name that does not depend on the machine."""

  name: str
  text: str


def read_files(spec: DataSpec) -> Splits:
  """The documents of each split, from the files that a spec names.

  Raises:
    ConfigError: a path is missing, empty, not UTF-8, or in two splits.
  """
  files = {'train': find(spec.path, 'data.path')}
  if spec.select_path:
    files['select'] = find(spec.select_path, 'data.select_path')
  if spec.test_path:
    files['test'] = find(spec.test_path, 'data.test_path')
  _check_disjoint(files)

  # A split that has its own files holds nothing out of `path`.
  splits = split(
    load(files['train'], 'data.path'),
    select=0.0 if 'select' in files else spec.select_fraction,
    test=0.0 if 'test' in files else spec.test_fraction,
  )
  for name in ('select', 'test'):
    if name in files:
      documents = load(files[name], f'data.{name}_path')
      splits[name] = [document.text for document in documents]
  return splits


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
  files: dict[pathlib.Path, str] = {}
  for pattern in patterns:
    path = pathlib.Path(pattern).expanduser()
    names = _matches(path)
    if not names:
      problem = 'holds no *.txt file' if path.is_dir() else 'does not exist'
      raise ConfigError(f'{field}: {pattern!r} {problem}; correct the path')
    for match in sorted(names, key=pathlib.Path.as_posix):
      files.setdefault(match.resolve(), names[match])
  return files


def _matches(path: pathlib.Path) -> dict[pathlib.Path, str]:
  """The files of a file, folder or glob, and their document names."""
  if path.is_dir():
    files = path.rglob('*.txt')
    return {file: file.relative_to(path).as_posix() for file in files}
  if path.exists():
    return {path: path.name}
  matches = map(pathlib.Path, glob.glob(str(path), recursive=True))
  return {match: match.name for match in matches if match.is_file()}


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
  for name, paths in files.items():
    for path in paths:
      if path in owner:
        raise ConfigError(
          f'data: {str(path)!r} is in both {owner[path]} and {name}; '
          'name it in one of path, select_path and test_path'
        )
      owner[path] = name


def split(documents: Sequence[Document], select: float, test: float) -> Splits:
  """Splits documents into train, select and test.

  Whole documents move where there are enough of them. A few long ones are cut
  instead: train first, then select, then test.

  Args:
    documents: in any order; which split gets one depends on its name.
    select: share of the characters that select gets; 0 = none.
    test: share of the characters that test gets; 0 = none.
  """
  fractions = {'select': select, 'test': test}
  if len(documents) >= MIN_DOCUMENTS:
    return _split_whole(documents, fractions)
  return _split_contiguous([document.text for document in documents], fractions)


def _split_whole(
  documents: Sequence[Document], fractions: Mapping[str, float]
) -> Splits:
  """Fills each held-out split with the first documents, by hash, that fit."""
  size_N = [len(document.text) for document in documents]
  room = {name: f * sum(size_N) for name, f in fractions.items() if f > 0}
  owner_N = ['train'] * len(documents)
  for i in sorted(range(len(documents)), key=lambda i: _hash(documents[i])):
    for name in room:
      if size_N[i] <= room[name]:
        owner_N[i] = name
        room[name] -= size_N[i]
        break

  for name in room:
    if name not in owner_N:
      # Every document is longer than the split should be.
      train = [i for i, owner in enumerate(owner_N) if owner == 'train']
      shortest = min(train, key=lambda i: size_N[i])
      owner_N[shortest] = name

  splits: Splits = {name: [] for name in SPLITS}
  for document, owner in zip(documents, owner_N, strict=True):
    splits[owner].append(document.text)
  return splits


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
  head: list[str] = []
  tail: list[str] = []
  for text in texts:
    if text[:size]:
      head.append(text[:size])
    if text[size:]:
      tail.append(text[size:])
    size = max(0, size - len(text))
  return head, tail
