"""Which text is prepared as tokens, and how."""

import dataclasses
from typing import Annotated

from ease_jax.checks import Count, OneOf, Range, check_value, declared, need
from ease_jax.data.spec import Fraction, Paths
from ease_jax.data.text_pieces import PIECE_BYTES
from ease_jax.data.tfds_source import check_one

KINDS = ('byte', 'char', 'bpe')
READ_FROM = ('text', 'tfds')
# What gives a field of a recipe a meaning.
_READ_WITH = {
  'vocab_size': ('tokenizer', 'bpe'),
  'sample_bytes': ('tokenizer', 'bpe'),
  'select_path': ('source', 'text'),
  'test_path': ('source', 'text'),
  'select_fraction': ('source', 'text'),
  'test_fraction': ('source', 'text'),
}
Size = Annotated[int, Range(1, 2**62)]


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Which text becomes tokens, and how.

  Attributes:
    paths: files, folders or globs; of tfds one folder or builder name.
    source: text or tfds.
    tokenizer: a new one: byte, char, bpe; '' = it is taken from a file.
    tokenizer_from: a `tokenizer.json`, or a folder that has one; '' = none.
    vocab_size: tokens of a new bpe.
    sample_bytes: of train, which a new bpe is learned from.
    select_path: files of the split select; () = some documents are held out.
    test_path: files of the split test; () = some documents are held out.
    select_fraction: share of the characters that select holds out.
    test_fraction: share of the characters that test holds out.
    shard_bytes: of text, in a file of tokens.
    workers: processes.
    piece_bytes: of text, that a process holds.
  """

  paths: Paths
  source: Annotated[str, OneOf(READ_FROM)] = 'text'
  tokenizer: Annotated[str, OneOf(('', *KINDS))] = ''
  tokenizer_from: str = ''
  vocab_size: Annotated[int, Range(257, 2**31 - 1)] = 8192
  sample_bytes: Size = 100_000_000
  select_path: Paths = ()
  test_path: Paths = ()
  select_fraction: Fraction = 0.05
  test_fraction: Fraction = 0.05
  shard_bytes: Size = 2**28
  workers: Count = 1
  piece_bytes: Size = PIECE_BYTES

  def __post_init__(self):
    for name, hint in declared(type(self)).items():
      flag = 'FILE' if name == 'paths' else f'--{name}'
      check_value(flag, getattr(self, name), hint)
    need(
      bool(self.tokenizer) != bool(self.tokenizer_from),
      f'--tokenizer={self.tokenizer!r} and --tokenizer_from='
      f'{self.tokenizer_from!r}: tokens are of one tokenizer; give one of the '
      'two',
    )
    for name, (other, value) in _READ_WITH.items():
      default = getattr(type(self), name)
      need(
        getattr(self, name) == default or getattr(self, other) == value,
        f'--{name}={getattr(self, name)!r} does nothing without '
        f'--{other}={value}; leave it out',
      )
    if self.source == 'tfds':
      check_one(self.paths, 'FILE')
