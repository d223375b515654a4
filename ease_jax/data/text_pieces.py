"""Text in pieces, none of which needs the whole of it in memory.

A document is cut where a character is followed by a space or a line end. No
token of bytes, characters or the package's own byte pairs spans such a place,
so that the tokens of the pieces are those of the document. A document without
such a place is one piece.
"""

import codecs
import dataclasses
import functools
import itertools
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from ease_jax.checks import ConfigError, need
from ease_jax.data import tfds_source

PIECE_BYTES = 2**20
# Up to the last character that such a place is behind. What Python calls a
# space is one, and some more, for every tokenizer.
_CUT = re.compile(r'.*\S(?=[ \n])', re.DOTALL)


class Piece(Protocol):
  """Some text of a split, read when it is needed."""

  @property
  def size(self) -> int:
    """Bytes, perhaps about."""
    ...

  def texts(self) -> Iterator[tuple[str, bool]]:
    """Its texts, and whether a document begins with each."""
    ...


@dataclasses.dataclass(frozen=True)
class FilePiece:
  """Bytes `begin` to `end` of a file of UTF-8.

  Attributes:
    path: of the file.
    begin, end: whole characters lie between them.
    is_first: a document begins there.
  """

  path: pathlib.Path
  begin: int
  end: int
  is_first: bool

  @property
  def size(self) -> int:
    return self.end - self.begin

  def texts(self) -> Iterator[tuple[str, bool]]:
    yield self.read(), self.is_first

  def read(self) -> str:
    """Its text."""
    with open(self.path, 'rb') as file:
      file.seek(self.begin)
      raw = file.read(self.size)
    try:
      need(len(raw) == self.size, f'{str(self.path)!r} has become shorter')
      return raw.decode('utf-8')
    except UnicodeDecodeError as error:
      raise ConfigError(f'{str(self.path)!r} has changed meanwhile') from error


@dataclasses.dataclass(frozen=True)
class TfdsPiece:
  """Some documents of a TFDS split.

  Attributes:
    path: folder or builder name.
    split: select, for example.
    begin, end: numbers of the documents.
    size: bytes, about.
  """

  path: str
  split: str
  begin: int
  end: int
  size: int

  def texts(self) -> Iterator[tuple[str, bool]]:
    for document in tfds_source.some(
      self.path, self.split, self.begin, self.end
    ):
      yield document, True


class Mark(NamedTuple):
  """A place in a document, counted from its first character.

  Attributes:
    characters: before it.
    bytes: before it, of the file.
  """

  characters: int
  bytes: int


class Scanned(NamedTuple):
  """What reading a file once tells about it.

  Attributes:
    marks: where it may be cut, from its beginning to its end.
    has_mark: it begins with a byte-order mark, which is no text.
    has_returns: there are characters \\r.
  """

  marks: tuple[Mark, ...]
  has_mark: bool
  has_returns: bool


def scan(
  path: pathlib.Path, *, field: str, whole: bool, piece_bytes: int
) -> Scanned:
  """Reads a file of UTF-8 once, piece by piece.

  Args:
    path: of the file.
    field: what an error message calls it.
    whole: it is to be one piece, however long.
    piece_bytes: of a piece, about.

  Raises:
    ConfigError: it cannot be read, is not UTF-8, or has a NUL.
  """
  where = f'{field}: {str(path)!r}'
  try:
    with open(path, 'rb') as file:
      has_mark = file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
      first = len(codecs.BOM_UTF8) if has_mark else 0
      file.seek(first)
      read = functools.partial(file.read, -1 if whole else piece_bytes)
      marks = [Mark(0, first)]
      has_returns = False
      for part in _cut(_decoded(iter(read, b''), where, first)):
        has_returns = has_returns or '\r' in part
        before = marks[-1]
        size = len(part.encode())
        marks.append(Mark(before[0] + len(part), before[1] + size))
  except OSError as error:
    raise ConfigError(
      f'{field}: cannot read {str(path)!r}: {error.strerror}'
    ) from error
  return Scanned(tuple(marks), has_mark, has_returns)


def _decoded(chunks: Iterable[bytes], where: str, read: int) -> Iterator[str]:
  """Chunks of UTF-8 as text; a character may lie in two of them.

  Args:
    chunks: of a file.
    where: for messages.
    read: bytes of the file before them.
  """
  decoder = codecs.getincrementaldecoder('utf-8')()
  characters = 0
  begin = read
  try:
    for chunk in chunks:
      # What the chunk before ended with may be half of a character.
      begin = read - len(decoder.getstate()[0])
      decoded = decoder.decode(chunk)
      read += len(chunk)
      need(
        '\0' not in decoded,
        f'{where} has a NUL at character {characters + decoded.find(chr(0))}, '
        'as no text has; remove it, or convert UTF-16 to UTF-8',
      )
      characters += len(decoded)
      yield decoded
    begin = read - len(decoder.getstate()[0])
    decoder.decode(b'', final=True)
  except UnicodeDecodeError as error:
    raise ConfigError(
      f'{where} is not UTF-8 at byte {begin + error.start}; convert it to UTF-8'
    ) from error


def _cut(texts: Iterable[str]) -> Iterator[str]:
  """The same text, cut where no token lies across."""
  kept = ''
  for part in texts:
    # Before that there was no place.
    begin = max(0, len(kept) - 1)
    kept += part
    found = _CUT.match(kept, begin)
    if found:
      yield kept[: found.end()]
      kept = kept[found.end() :]
  if kept:
    yield kept


class Document(NamedTuple):
  """A file that has been scanned.

  Attributes:
    name: that does not depend on the machine.
    path: of the file.
    marks: where it may be cut.
  """

  name: str
  path: pathlib.Path
  marks: tuple[Mark, ...]

  @property
  def characters(self) -> int:
    """Its length."""
    return self.marks[-1].characters

  def pieces(self, begin: int, end: int) -> Iterator[FilePiece]:
    """Characters `begin` to `end`, as a document of their own."""
    for left, right in itertools.pairwise(self.marks):
      first = max(begin, left.characters)
      last = min(end, right.characters)
      if first < last:
        place = self._byte(left, right, first)
        after = self._byte(left, right, last)
        yield FilePiece(self.path, place, after, first == begin)

  def _byte(self, left: Mark, right: Mark, character: int) -> int:
    """Where a character between two marks starts in the file."""
    for mark in (left, right):
      if character == mark.characters:
        return mark.bytes
    piece = FilePiece(self.path, left.bytes, right.bytes, False).read()
    before = piece[: character - left.characters]
    return left.bytes + len(before.encode())
