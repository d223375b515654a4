"""What a config's section `data` asks for, checked."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from ease_jax.checks import (
  Count,
  Filled,
  OneOf,
  Range,
  ReadIf,
  Size,
  check_fields,
  need,
  plain,
)

TOKENS = 'tokens'  # the source that has been tokenized before
SOURCES = ('stdlib', 'text', 'tfds', TOKENS)
TOKENIZERS = ('byte', 'char', 'bpe', 'pretrained')
# Whether tokens of a window look beyond their own document.
JOINED = 'joined'
APART = 'apart'
SPLITS = ('train', 'select', 'test')

Paths = tuple[Annotated[str, Filled()], ...]
# Less than half each, so that train keeps something.
Fraction = Annotated[float, Range(0, 0.5, above=True, below=True)]

# Who splits documents, and who has files for each split.
_Split = ReadIf('source', ('stdlib', 'text'))
_Files = ReadIf('source', ('text',))
# Who has text, which is not yet tokens.
_Text = ReadIf('source', ('stdlib', 'text', 'tfds'))


@dataclasses.dataclass(frozen=True)
class DataSpec:
  """Which text to read, how to split it and how to cut it into tokens.

  Attributes:
    task: what is learned from it, one of `task.TASKS`.
    source: the running Python's library, text files, a TFDS dataset, or
      folders of prepared tokens.
    path: files, folders or globs; of tfds one name or folder; of tokens the
      folders.
    mixture_weights: of tokens in several folders, what share of the training
      windows each of them gives; they need not sum to one.
    select_path: files of the split select; () holds some of `path` out.
    test_path: files of the split test; () holds some of `path` out.
    select_fraction: share of the characters that select holds out.
    test_fraction: share of the characters that test holds out.
    train_chars: characters of train that are used, from the first; 0 = all.
    select_chars: the same for select.
    test_chars: the same for test.
    tokenizer: bytes, characters, byte pair encoding, or that of an imported
      model.
    vocab_size: tokens of a byte pair encoding; the other tokenizers have
      as many as they need.
    seq_len: T, tokens of a window.
    documents: whether tokens of a window see those before them of whatever
      document, or of their own alone, in which positions count from 0.
  """

  task: str
  source: Annotated[str, OneOf(SOURCES)]
  path: Annotated[Paths, ReadIf('source', ('text', 'tfds', TOKENS))]
  mixture_weights: Annotated[
    tuple[Annotated[float, Range(0, above=True)], ...],
    ReadIf('source', (TOKENS,)),
  ]
  select_path: Annotated[Paths, _Files]
  test_path: Annotated[Paths, _Files]
  select_fraction: Annotated[Fraction, _Split, ReadIf('select_path', ((),))]
  test_fraction: Annotated[Fraction, _Split, ReadIf('test_path', ((),))]
  train_chars: Annotated[Size, _Text]
  select_chars: Annotated[Size, _Text]
  test_chars: Annotated[Size, _Text]
  tokenizer: Annotated[str, OneOf(TOKENIZERS)]
  # 256 bytes and eos, before any pair.
  vocab_size: Annotated[
    int, Range(257, 2**31 - 1), ReadIf('tokenizer', ('bpe',)), _Text
  ]
  seq_len: Count
  documents: Annotated[str, OneOf((JOINED, APART))]

  @classmethod
  def from_config(cls, section: Mapping[str, Any]) -> 'DataSpec':
    """The spec of a config's section `data`.

    Raises:
      ConfigError: a field has a value that cannot be used.
    """
    return cls(**plain(section))

  def __post_init__(self):
    check_fields('data', self)
    if self.source == TOKENS:
      self._check_folders()

  def _check_folders(self) -> None:
    need(
      len(self.path) > 0,
      f'data.path=() names no folder; data.source={TOKENS} needs one',
    )
    several = len(self.path) if len(self.path) > 1 else 0
    need(
      len(self.mixture_weights) == several,
      f'data.mixture_weights={self.mixture_weights} has '
      f'{len(self.mixture_weights)} weights, and data.path names '
      f'{len(self.path)} folders; give each of several a weight, and one alone '
      'none',
    )

  def document_start(self, eos_id: int | None) -> int | None:
    """The token with which models let a document begin; None = none does.

    It is the eos of the document before: what follows it is predicted from
    that token alone, so that every target counts, as it does in one whole row.

    Args:
      eos_id: of the task; None = its rows have no documents.

    Raises:
      ConfigError: documents shall be apart, and there are none.
    """
    if self.documents == JOINED:
      return None
    need(
      eos_id is not None,
      f'data.documents={self.documents} asks for a token between documents, '
      f'and data.task={self.task} has none; use {JOINED}',
    )
    return eos_id

  @property
  def max_chars(self) -> dict[str, int]:
    """Characters of each split that are used; 0 = all."""
    return {
      'train': self.train_chars,
      'select': self.select_chars,
      'test': self.test_chars,
    }
