"""What a config's section `data` asks for, checked."""

import dataclasses
from typing import Any

import ml_collections

from ease_jax.checks import at_least_one, need, one_of

SOURCES = ('stdlib', 'text', 'tfds')
TOKENIZERS = ('byte', 'char', 'bpe')
SPLITS = ('train', 'select', 'test')


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
    tokenizer: bytes, characters, or byte pair encoding.
    vocab_size: tokens of a byte pair encoding; the other tokenizers have
      as many as they need.
    seq_len: T, tokens of a window.
  """

  task: str
  source: str
  path: tuple[str, ...]
  select_path: tuple[str, ...]
  test_path: tuple[str, ...]
  select_fraction: float
  test_fraction: float
  train_chars: int
  select_chars: int
  test_chars: int
  tokenizer: str
  vocab_size: int
  seq_len: int

  @classmethod
  def from_config(cls, section: ml_collections.ConfigDict) -> 'DataSpec':
    """The spec of a config's section `data`.

    Raises:
      ConfigError: a field has a value that cannot be used.
    """
    fields: dict[str, Any] = dict(section)
    for name in ('path', 'select_path', 'test_path'):
      fields[name] = tuple(fields[name])
    return cls(**fields)

  def __post_init__(self):
    one_of('data.source', self.source, SOURCES)
    one_of('data.tokenizer', self.tokenizer, TOKENIZERS)
    for name in ('select_fraction', 'test_fraction'):
      value = getattr(self, name)
      need(0 < value < 0.5, f'data.{name}={value} is not in (0, 0.5)')
    at_least_one('data', self, 'seq_len')

  @property
  def max_chars(self) -> dict[str, int]:
    """Characters of each split that are used; 0 = all."""
    return {
      'train': self.train_chars,
      'select': self.select_chars,
      'test': self.test_chars,
    }
