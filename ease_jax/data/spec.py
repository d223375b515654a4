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
  plain,
)

SOURCES = ('stdlib', 'text', 'tfds')
TOKENIZERS = ('byte', 'char', 'bpe', 'pretrained')
SPLITS = ('train', 'select', 'test')

Paths = tuple[Annotated[str, Filled()], ...]
# Less than half each, so that train keeps something.
Fraction = Annotated[float, Range(0, 0.5, above=True, below=True)]

# Who splits documents, and who has files for each split.
_Split = ReadIf('source', ('stdlib', 'text'))
_Files = ReadIf('source', ('text',))


@dataclasses.dataclass(frozen=True)
class DataSpec:
  """Which text to read, how to split it and how to cut it into tokens.

  Attributes:
    task: what is learned from it, one of `task.TASKS`.
    source: the running Python's library, text files, or a TFDS dataset.
    path: files, folders or globs; of tfds one name or folder.
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
  """

  task: str
  source: Annotated[str, OneOf(SOURCES)]
  path: Annotated[Paths, ReadIf('source', ('text', 'tfds'))]
  select_path: Annotated[Paths, _Files]
  test_path: Annotated[Paths, _Files]
  select_fraction: Annotated[Fraction, _Split, ReadIf('select_path', ((),))]
  test_fraction: Annotated[Fraction, _Split, ReadIf('test_path', ((),))]
  train_chars: Size
  select_chars: Size
  test_chars: Size
  tokenizer: Annotated[str, OneOf(TOKENIZERS)]
  # 256 bytes and eos, before any pair.
  vocab_size: Annotated[
    int, Range(257, 2**31 - 1), ReadIf('tokenizer', ('bpe',))
  ]
  seq_len: Count

  @classmethod
  def from_config(cls, section: Mapping[str, Any]) -> 'DataSpec':
    """The spec of a config's section `data`.

    Raises:
      ConfigError: a field has a value that cannot be used.
    """
    return cls(**plain(section))

  def __post_init__(self):
    check_fields('data', self)

  @property
  def max_chars(self) -> dict[str, int]:
    """Characters of each split that are used; 0 = all."""
    return {
      'train': self.train_chars,
      'select': self.select_chars,
      'test': self.test_chars,
    }
