"""Documents of plain text and their split into train, select and test.

The same files give the same splits on every machine: nothing here depends on
where a folder lies, on the order a file system lists it, or on a seed.
"""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence

from ease_jax.checks import ConfigError
from ease_jax.data import files as files_lib
from ease_jax.data.files import Document
from ease_jax.data.spec import SPLITS, DataSpec

# With fewer documents than this, whole ones cannot match the fractions.
MIN_DOCUMENTS = 20

Splits = dict[str, list[str]]


def read_files(spec: DataSpec) -> Splits:
  """The documents of each split, from the files that a spec names.

  Raises:
    ConfigError: a path is missing, empty, not UTF-8, or in two splits.
  """
  patterns = {
    'data.path': spec.path,
    'data.select_path': spec.select_path,
    'data.test_path': spec.test_path,
  }
  account = files_lib.Account()
  files = {
    field: files_lib.find(given, field, account)
    for field, given in patterns.items()
    if given or field == 'data.path'
  }
  _check_disjoint(files)
  documents = {
    field: files_lib.load(found, field, account)
    for field, found in files.items()
  }
  files_lib.say(f'text: {account}')

  # A split that has its own files holds nothing out of `path`.
  splits = split(
    documents['data.path'],
    select=0.0 if spec.select_path else spec.select_fraction,
    test=0.0 if spec.test_path else spec.test_fraction,
  )
  for name in ('select', 'test'):
    own = documents.get(f'data.{name}_path')
    if own is not None:
      splits[name] = [document.text for document in own]
  return splits


def _check_disjoint(files: Mapping[str, Mapping[pathlib.Path, str]]) -> None:
  owner: dict[tuple[int, int], str] = {}  # of a file, whatever its names
  for field, paths in files.items():
    for path in paths:
      status = path.stat()
      file = status.st_dev, status.st_ino
      if owner.setdefault(file, field) != field:
        raise ConfigError(
          f'{str(path)!r} is in both {owner[file]} and {field}; name it in one '
          'of them'
        )


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
