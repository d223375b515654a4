"""Folders of prepared tokens, of which only what is asked for is read.

  index.json           what the folder holds, and hashes of all of it
  tokenizer.json       what made the tokens
  train-00000.tokens   a shard: numbers of the index's `dtype`, little-endian
  train.documents      where each document starts in its split, uint64

A split is its shards end to end, with one eos between two documents. In it,
V - 1 + n stands for a character of n bytes that the tokenizer does not know.
Plain files, since a window at any place of one is a single small read.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ease_jax.checks import ConfigError, need
from ease_jax.data import token_views, tokenizers
from ease_jax.data.spec import SPLITS
from ease_jax.data.token_views import NumberFile
from ease_jax.files import expanded

INDEX = 'index.json'
FORMAT = 1  # of such folders; a reader knows one
START_DTYPE = '<u8'  # of document starts
SAMPLE_BYTES = 4096  # at three places of a file, hashed whenever it is opened
_CHUNK_BYTES = 2**22
_AGAIN = 'restore it, or prepare the text again'


@dataclasses.dataclass(frozen=True)
class FileFacts:
  """A file of the folder.

  Attributes:
    file: its name.
    size: in bytes.
    sha256: of all of it.
    sample_sha256: of some of it, which is read in no time.
  """

  file: str
  size: int
  sha256: str
  sample_sha256: str


@dataclasses.dataclass(frozen=True)
class Shard(FileFacts):
  """A file of tokens.

  Attributes:
    tokens: in it.
    documents: that start in it.
    bytes: of their text, UTF-8.
    unknown: tokens of characters that the tokenizer does not know.
  """

  tokens: int
  documents: int
  bytes: int
  unknown: int


@dataclasses.dataclass(frozen=True)
class Split:
  """The files of a split.

  Attributes:
    shards: of its tokens, in order.
    starts: of the places where its documents start.
  """

  shards: tuple[Shard, ...]
  starts: FileFacts

  def total(self, what: str) -> int:
    """A number of the shards, such as `tokens`, summed."""
    return sum(getattr(shard, what) for shard in self.shards)

  def to_json(self) -> dict[str, Any]:
    """All of it, with the sums."""
    sums = ('tokens', 'documents', 'bytes', 'unknown')
    return {what: self.total(what) for what in sums} | dataclasses.asdict(self)

  @classmethod
  def from_json(cls, saved: Mapping[str, Any]) -> 'Split':
    """What `to_json` returned."""
    shards = tuple(Shard(**shard) for shard in saved['shards'])
    return cls(shards, FileFacts(**saved['starts']))


@dataclasses.dataclass(frozen=True)
class TokenFolder:
  """A folder of prepared tokens, found whole as far as that is cheap to say.

  Attributes:
    path: of the folder.
    tokenizer: of its tokens.
    dtype: of its files of tokens, as NumPy calls it.
    splits: its files.
    sha256: of its index, which has the hashes of all files.
  """

  path: pathlib.Path
  tokenizer: tokenizers.Tokenizer
  dtype: str
  splits: Mapping[str, Split]
  sha256: str

  def parts(self, split: str) -> tuple[NumberFile, ...]:
    """The tokens of a split as they are stored."""
    dtype = np.dtype(self.dtype).newbyteorder('<')
    return tuple(
      NumberFile(self.path / shard.file, dtype)
      for shard in self.splits[split].shards
      if shard.tokens
    )

  def starts(self, split: str) -> np.ndarray:
    """Where the documents of a split start, [documents] uint64, mapped."""
    path = self.path / self.splits[split].starts.file
    return np.memmap(path, START_DTYPE, 'r')

  @property
  def files(self) -> list[FileFacts]:
    """All files but the index and the tokenizer."""
    found: list[FileFacts] = []
    for split in self.splits.values():
      found += [*split.shards, split.starts]
    return found


def open_folder(path: str, field: str = 'data.path') -> TokenFolder:
  """Reads an index and makes sure that its files are there.

  Sizes of all files and a sample of each are checked, not all of them.

  Args:
    path: of the folder.
    field: what an error message calls it.

  Raises:
    ConfigError: it is no such folder, or is damaged.
  """
  folder = expanded(path, field)
  index = _read_index(folder, f'{field}: {str(path)!r}')
  splits = {name: Split.from_json(index['splits'][name]) for name in SPLITS}
  said = index['tokenizer']
  tokenizer_path = folder / tokenizers.FILE
  tokenizer = tokenizers.load(tokenizer_path)
  need(
    sha256_of(tokenizer_path) == said['sha256'],
    f'{field}: {tokenizer_path} is not the tokenizer that made the tokens '
    f'beside it; {_AGAIN}',
  )
  opened = TokenFolder(
    folder, tokenizer, index['dtype'], splits, index['sha256']
  )
  for facts in opened.files:
    _check_file(folder / facts.file, facts, field)
  return opened


def _read_index(folder: pathlib.Path, where: str) -> dict[str, Any]:
  need(folder.is_dir(), f'{where} is no folder; correct the path')
  path = folder / INDEX
  need(
    path.exists(),
    f'{where} is no folder of prepared tokens, as it has no {INDEX}; make one '
    'with python -m ease_jax.data.prepare --tokenizer=byte --out=DIR FILE',
  )
  try:
    index = json.loads(path.read_text(encoding='utf-8'))
    version = index['format']
    whole = index['sha256'] == index_sha256(index)
  except (ValueError, KeyError, TypeError) as error:
    raise ConfigError(f'{where}: {INDEX} is damaged; {_AGAIN}') from error
  need(
    version == FORMAT,
    f'{where} has format {version}, and this version of ease_jax reads '
    f'{FORMAT}; prepare the text again',
  )
  need(whole, f'{where}: {INDEX} was changed, as its hash says; {_AGAIN}')
  return index


def _check_file(path: pathlib.Path, facts: FileFacts, field: str) -> None:
  """Raises ConfigError if a file is not there, or not the one it was."""
  need(path.is_file(), f'{field}: {path} is missing; {_AGAIN}')
  size = path.stat().st_size
  need(
    size == facts.size,
    f'{field}: {path} has {size} bytes, and {INDEX} says {facts.size}; '
    f'{_AGAIN}',
  )
  need(
    sample_sha256(path) == facts.sample_sha256,
    f'{field}: {path} is damaged, as a sample of it says; {_AGAIN}',
  )


def check_whole(path: pathlib.Path, facts: FileFacts) -> None:
  """Raises ConfigError unless all of a file is as the index says."""
  need(
    sha256_of(path) == facts.sha256,
    f'{path} is damaged: its hash is not that of {INDEX}; {_AGAIN}',
  )


def facts_of(path: pathlib.Path, sha256: str) -> FileFacts:
  """What the index says of a file whose hash is known."""
  size = path.stat().st_size
  return FileFacts(path.name, size, sha256, sample_sha256(path))


def sha256_of(path: pathlib.Path) -> str:
  """The hash of a file."""
  digest = hashlib.sha256()
  with open(path, 'rb') as file:
    while chunk := file.read(_CHUNK_BYTES):
      digest.update(chunk)
  return digest.hexdigest()


def sample_sha256(path: pathlib.Path) -> str:
  """The hash of the beginning, the middle and the end of a file."""
  digest = hashlib.sha256()
  with open(path, 'rb') as file:
    size = os.fstat(file.fileno()).st_size
    for place in (0, size // 2, max(0, size - SAMPLE_BYTES)):
      file.seek(place)
      digest.update(file.read(SAMPLE_BYTES))
  return digest.hexdigest()


def index_sha256(index: Mapping[str, Any]) -> str:
  """The hash of an index, whatever it says of its own hash."""
  content = {name: index[name] for name in index if name != 'sha256'}
  return hashlib.sha256(
    json.dumps(content, sort_keys=True).encode()
  ).hexdigest()


def dtype_of(tokenizer: tokenizers.Tokenizer) -> str:
  """The smallest numbers that hold all tokens, as NumPy calls them."""
  sizes_of_unknown = 4 if tokenizer.unk_id is not None else 0
  most = tokenizer.vocab_size - 1 + sizes_of_unknown
  fitting = [d for d in ('<u1', '<u2', '<u4') if most <= np.iinfo(d).max]
  return np.dtype(fitting[0]).name


def numbers(
  folders: Sequence[TokenFolder], split: str, length: int
) -> token_views.DocumentNumbers:
  """The documents of a split of several folders, joined as `with_breaks` does.

  Args:
    folders: at least one.
    split: its name.
    length: tokens in all, those between two folders included.
  """
  if len(folders) == 1:
    return token_views.DocumentNumbers(folders[0].starts(split), length)
  before = 0
  starts = []
  for folder in folders:
    starts.append(folder.starts(split) + np.uint64(before))
    before += folder.splits[split].total('tokens') + 1
  return token_views.DocumentNumbers(np.concatenate(starts), length)
