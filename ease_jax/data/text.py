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
  check_disjoint(files)
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


def check_disjoint(files: Mapping[str, Mapping[pathlib.Path, str]]) -> None:
  """Refuses a file that is in two splits.

  Args:
    files: of each field of the config.

  Raises:
    ConfigError: names it.
  """
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
  size_N = [len(document.text) for document in documents]
  if len(documents) >= MIN_DOCUMENTS:
    owner_N = owners([doc.name for doc in documents], size_N, fractions)
    splits: Splits = {name: [] for name in SPLITS}
    for document, owner in zip(documents, owner_N, strict=True):
      splits[owner].append(document.text)
    return splits

  sizes = shares(sum(size_N), fractions)
  texts = [document.text for document in documents]
  train, rest = cut(texts, sizes['train'])
  select_texts, test_texts = cut(rest, sizes['select'])
  return {'train': train, 'select': select_texts, 'test': test_texts}


def owners(
  names: Sequence[str], size_N: Sequence[int], fractions: Mapping[str, float]
) -> list[str]:
  """The split of each document, all of which move whole.

  Each held-out split is filled with the first documents, by hash, that fit.

  Args:
    names: of the documents.
    size_N: characters of each.
    fractions: share of the characters that each held-out split gets; 0 = none.
  """
  room = {name: f * sum(size_N) for name, f in fractions.items() if f > 0}
  owner_N = ['train'] * len(names)
  for i in sorted(range(len(names)), key=lambda i: _hash(names[i])):
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
  return owner_N


def _hash(name: str) -> bytes:
  return hashlib.sha256(name.encode('utf-8', 'replace')).digest()


def shares(total: int, fractions: Mapping[str, float]) -> dict[str, int]:
  """Characters of each split, in the order in which texts are cut.

  Args:
    total: characters of all texts.
    fractions: as in `owners`.
  """
  sizes = {name: round(f * total) for name, f in fractions.items()}
  return {'train': total - sum(sizes.values()), **sizes}


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
