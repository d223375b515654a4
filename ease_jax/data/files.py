"""Text of files: each one is read, or a printed line says why it is not."""

import codecs
import collections
import dataclasses
import glob
import os
import pathlib
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ease_jax.checks import ConfigError, need
from ease_jax.files import expanded

MAX_NOTES = 8  # of a printed line


class Document(NamedTuple):
  """One text and a name that does not depend on the machine."""

  name: str
  text: str


@dataclasses.dataclass
class Account:
  """What was read and what was not, for a line.

  Attributes:
    files: that were read.
    characters: in them.
    notes: what else was seen, and how often.
  """

  files: int = 0
  characters: int = 0
  notes: collections.Counter[str] = dataclasses.field(
    default_factory=collections.Counter
  )

  def note(self, has_mark: bool, has_returns: bool) -> None:
    """Notes what a file has that is left out, or kept.

    Args:
      has_mark: a byte-order mark at its beginning.
      has_returns: characters \\r.
    """
    if has_mark:
      self.notes['byte-order marks, left out'] += 1
    if has_returns:
      self.notes['files with \\r in line ends, kept'] += 1

  def add(self, files: int, sizes: Sequence[int]) -> None:
    """Counts files that were read.

    Args:
      files: of them.
      sizes: characters of those that are not empty.
    """
    self.files += len(sizes)
    self.characters += sum(sizes)
    if files > len(sizes):
      self.notes['empty files, left out'] += files - len(sizes)

  def __str__(self) -> str:
    parts = [f'{self.files:,} files, {self.characters:,} characters']
    common = self.notes.most_common(MAX_NOTES)
    parts += [f'{what}: {number:,}' for what, number in common]
    rest = self.notes.total() - sum(number for _, number in common)
    if rest:
      parts.append(f'others, left out: {rest:,}')
    return '; '.join(parts)


def say(line: str) -> None:
  """Tells a person; standard output is for programs."""
  print(f'[{line}]', file=sys.stderr, flush=True)


def decode(raw: bytes, where: str) -> str:
  """UTF-8 as text, a byte-order mark left out and line ends as they are.

  Args:
    raw: what was stored.
    where: for the message, such as the name of a file.

  Raises:
    ConfigError: it is not UTF-8, or has a NUL, which no text has.
  """
  try:
    text = raw.decode('utf-8-sig')
  except UnicodeDecodeError as error:
    raise ConfigError(
      f'{where} is not UTF-8 at byte {error.start}; convert it to UTF-8'
    ) from error
  need(
    '\0' not in text,
    f'{where} has a NUL at character {text.find(chr(0))}, as no text has; '
    'remove it, or convert UTF-16 to UTF-8',
  )
  return text


def find(
  patterns: Sequence[str], field: str, account: Account
) -> dict[pathlib.Path, str]:
  """The files that patterns name, each once, and their document names.

  Args:
    patterns: files, folders (all *.txt below them, links followed) or globs.
    field: what the error message calls the patterns.
    account: gets a note of what is left out.

  Raises:
    ConfigError: a pattern names no file, or there is no pattern.
  """
  need(
    len(patterns) > 0, f'{field}=() names no file; give files, folders or globs'
  )
  files: dict[pathlib.Path, str] = {}
  for pattern in patterns:
    path = expanded(pattern, field)
    names = _matches(path, field, account)
    if not names:
      problem = 'holds no *.txt file' if path.is_dir() else 'does not exist'
      raise ConfigError(f'{field}: {pattern!r} {problem}; correct the path')

    for match in sorted(names, key=pathlib.Path.as_posix):
      if match.resolve() in files:
        account.notes['files named again, read once'] += 1
      files.setdefault(match.resolve(), names[match])
  return files


def _matches(
  path: pathlib.Path, field: str, account: Account
) -> dict[pathlib.Path, str]:
  """The files of a file, folder or glob, and their document names."""
  if path.is_dir():
    files = _below(path, field, account)
    return {file: file.relative_to(path).as_posix() for file in files}
  if path.exists():
    need(
      path.is_file(),
      f'{field}: {str(path)!r} is a pipe or a device, which a resumed run '
      'cannot read again; save its text in a file',
    )
    return {path: path.name}

  matches = map(pathlib.Path, glob.glob(str(path), recursive=True))
  return {match: match.name for match in matches if _is_file(match, account)}


def _below(
  folder: pathlib.Path, field: str, account: Account
) -> Iterator[pathlib.Path]:
  """All *.txt files of a folder and of those below it."""

  def refuse(error: OSError) -> None:
    raise ConfigError(
      f'{field}: cannot list {error.filename!r}: {error.strerror}'
    )

  seen = set()
  for here, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
    place = os.path.realpath(here)
    if place in seen:  # a link to where we have been
      folders.clear()
      continue
    seen.add(place)
    folders.sort()
    for name in names:
      file = pathlib.Path(here, name)
      if file.suffix != '.txt':
        kind = f'*{file.suffix}' if file.suffix else 'nameless'
        account.notes[f'{kind} files in folders, left out'] += 1
      elif _is_file(file, account):
        yield file


def _is_file(path: pathlib.Path, account: Account) -> bool:
  """Whether it can be read; notes what it is instead."""
  try:
    mode = path.stat().st_mode
  except OSError:
    account.notes['links to nothing, left out'] += 1
    return False
  if stat.S_ISREG(mode):
    return True
  kind = 'folders' if stat.S_ISDIR(mode) else 'pipes and devices'
  account.notes[f'{kind}, left out'] += 1
  return False


def load(
  files: Mapping[pathlib.Path, str], field: str, account: Account
) -> list[Document]:
  """Reads files, one document each; empty ones are left out.

  Args:
    files: and their document names.
    field: what the error message calls them.
    account: gets a note of what was read.

  Raises:
    ConfigError: a file is unreadable or no text, or all of them are empty.
  """
  documents = []
  for path, name in files.items():
    text = _read(path, field, account)
    if text:
      documents.append(Document(name, text))

  account.add(len(files), [len(document.text) for document in documents])
  first = next(iter(files))
  need(
    len(documents) > 0,
    f'{field}: {str(first)!r} is empty; give a file that has text',
  )
  return documents


def _read(path: pathlib.Path, field: str, account: Account) -> str:
  try:
    raw = path.read_bytes()
  except OSError as error:
    raise ConfigError(
      f'{field}: cannot read {str(path)!r}: {error.strerror}'
    ) from error
  text = decode(raw, f'{field}: {str(path)!r}')
  account.note(raw.startswith(codecs.BOM_UTF8), '\r' in text)
  return text


def encoded(text: str, encoding: str = 'utf-8') -> bytes:
  """A text as bytes.

  Raises:
    ConfigError: it has half of a character.
  """
  try:
    return text.encode(encoding)
  except UnicodeEncodeError as error:
    raise ConfigError(
      f'the text is not UTF-8 at character {error.start}; convert it to UTF-8'
    ) from error
