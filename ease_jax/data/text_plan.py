"""Which pieces of text are in each split, before any of them is kept."""

import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from ease_jax.checks import need
from ease_jax.data import files as files_lib
from ease_jax.data import text, tfds_source
from ease_jax.data.spec import SPLITS
from ease_jax.data.text_pieces import Document, Piece, Scanned, TfdsPiece

# What an error message calls the files of each split.
FIELDS = {'train': 'FILE', 'select': '--select_path', 'test': '--test_path'}

Splits = dict[str, list[Piece]]
ScanAll = Callable[[Sequence[pathlib.Path], str], Iterable[Scanned]]


def of_files(
  patterns: Mapping[str, Sequence[str]],
  fractions: Mapping[str, float],
  scan_all: ScanAll,
) -> Splits:
  """The pieces of each split, as `text.read_files` splits files.

  Args:
    patterns: the files of each split; what has none is held out of train.
    fractions: share of the characters that select and test hold out.
    scan_all: scans files, of a field.

  Raises:
    ConfigError: a path is missing, no text, or in two splits.
  """
  account = files_lib.Account()
  found = {
    name: files_lib.find(given, FIELDS[name], account)
    for name, given in patterns.items()
    if given or name == 'train'
  }
  text.check_disjoint({FIELDS[name]: found[name] for name in found})
  documents = {
    name: _documents(found[name], FIELDS[name], scan_all, account)
    for name in found
  }
  files_lib.say(f'text: {account}')

  held_out = {
    name: 0.0 if name in found else fractions[name] for name in SPLITS[1:]
  }
  splits = _split(documents.pop('train'), held_out)
  for name, own in documents.items():
    for document in own:
      splits[name] += document.pieces(0, document.characters)
  return splits


def _documents(
  files: Mapping[pathlib.Path, str],
  field: str,
  scan_all: ScanAll,
  account: files_lib.Account,
) -> list[Document]:
  """Files, scanned; empty ones are left out."""
  documents = []
  scanned = scan_all(list(files), field)
  for (path, name), found in zip(files.items(), scanned, strict=True):
    account.note(found.has_mark, found.has_returns)
    document = Document(name, path, found.marks)
    if document.characters:
      documents.append(document)
  account.add(len(files), [d.characters for d in documents])
  first = next(iter(files))
  need(
    len(documents) > 0,
    f'{field}: {str(first)!r} is empty; give a file that has text',
  )
  return documents


def _split(
  documents: Sequence[Document], fractions: Mapping[str, float]
) -> Splits:
  """Documents in train, select and test; see `text.split`."""
  splits: Splits = {name: [] for name in SPLITS}
  size_N = [document.characters for document in documents]
  if len(documents) >= text.MIN_DOCUMENTS:
    names = [document.name for document in documents]
    owner_N = text.owners(names, size_N, fractions)
    for document, owner in zip(documents, owner_N, strict=True):
      splits[owner] += document.pieces(0, document.characters)
    return splits

  left_out = 0  # characters of the splits before
  for name, size in text.shares(sum(size_N), fractions).items():
    before = 0  # characters of the documents before
    for document in documents:
      begin = max(0, left_out - before)
      end = min(document.characters, left_out + size - before)
      splits[name] += document.pieces(begin, end)
      before += document.characters
    left_out += size
  return splits


def of_tfds(path: str, piece_bytes: int) -> Splits:
  """The pieces of each split of a TFDS dataset.

  Args:
    path: folder or builder name.
    piece_bytes: of a piece, about.

  Raises:
    ConfigError: there is no such dataset, or it cannot be read here.
  """
  splits: Splits = {}
  for name in SPLITS:
    stored = tfds_source.stored(path, name)
    size = max(1, stored.num_bytes // max(1, stored.num_examples))
    step = max(1, piece_bytes // size)
    splits[name] = []
    for begin in range(0, stored.num_examples, step):
      end = min(begin + step, stored.num_examples)
      piece = TfdsPiece(path, name, begin, end, size * (end - begin))
      splits[name].append(piece)
  return splits


def grouped(pieces: Iterable[Piece], size: int) -> Iterator[tuple[Piece, ...]]:
  """Pieces in groups, each as soon as it has so many bytes."""
  group: list[Piece] = []
  total = 0
  for piece in pieces:
    group.append(piece)
    total += piece.size
    if total >= size:
      yield tuple(group)
      group = []
      total = 0
  if group:
    yield tuple(group)


def sampled(pieces: Sequence[Piece], size: int) -> Iterator[str]:
  """Texts of pieces that are spread evenly, about so many bytes of them.

  Args:
    pieces: of a split.
    size: in bytes; all pieces, in order, where they have less.
  """
  total = sum(piece.size for piece in pieces)
  every = -(-total // size)
  for piece in pieces[::every]:
    for part, _ in piece.texts():
      if every == 1:
        yield part
        continue
      # A character has a byte at least.
      yield part[:size]
      size -= len(part.encode())
      if size <= 0:
        return
