"""A tokenized corpus: what a `DataSpec` stands for."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ease_jax.checks import ConfigError, need
from ease_jax.data import files, library, text, tfds_source, tokenizers
from ease_jax.data.spec import SPLITS, DataSpec

# Every source of SOURCES, and what reads its documents.
READERS: dict[str, Callable[[DataSpec], text.Splits]] = {
  'stdlib': library.read,
  'text': text.read_files,
  'tfds': tfds_source.read,
}


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Token arrays and the tokenizer that made them.

  Attributes:
    source: where the text is from, one of SOURCES.
    tokenizer: of all splits; fitted on train alone.
    splits: the tokens of train, select and test, each [N] int32.
    sha256: of all these arrays, in hexadecimal digits.
    sized: the same tokens of a split that has unknown characters, where one
      of n bytes is V - 1 + n: what the bytes of a text are counted with.
  """

  source: str
  tokenizer: tokenizers.Tokenizer
  splits: dict[str, np.ndarray]
  sha256: str
  sized: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def load(
  spec: DataSpec, workdir: str | os.PathLike[str] | None = None
) -> Corpus:
  """Reads, splits and encodes the text of a spec; writes nothing.

  Args:
    spec: which text, and how.
    workdir: of a run, whose `tokenizer.json` encodes the text; None, or none
      there: one is fitted on train.

  Raises:
    ConfigError: the data is missing, unreadable or too short.
  """
  documents = READERS[spec.source](spec)
  for name, max_chars in spec.max_chars.items():
    if max_chars:
      documents[name], _ = text.cut(documents[name], max_chars)

  tokenizer = _tokenizer(spec, documents['train'], workdir)
  splits = {name: encode(tokenizer, documents[name]) for name in SPLITS}
  _check_sizes(splits, spec.seq_len)
  sized = {
    name: sized_unknowns(name, tokenizer, documents[name], splits[name])
    for name in SPLITS
    if tokenizer.unk_id in splits[name]
  }
  return Corpus(spec.source, tokenizer, splits, _sha256(splits), sized)


def encode(
  tokenizer: tokenizers.Tokenizer, documents: Sequence[str]
) -> np.ndarray:
  """Documents as one array of tokens [N] int32, one eos between two."""
  if not documents:
    return np.zeros(0, np.int32)

  eos = np.array([tokenizer.eos_id], np.int32)
  pieces: list[np.ndarray] = []
  for document in documents:
    pieces.append(eos)
    pieces.append(tokenizer.encode(document))
  return np.concatenate(pieces[1:])


def sized_unknowns(
  split: str,
  tokenizer: tokenizers.Tokenizer,
  documents: Sequence[str],
  tokens: np.ndarray,
) -> np.ndarray:
  """Tokens of single characters, the unknown ones by their size in bytes.

  Says how many there are.

  Args:
    split: its name.
    tokenizer: of characters.
    documents: of the split.
    tokens: it encoded, [N] int32.
  """
  # One token for each character, and for what stands between documents.
  text = '\0'.join(documents)
  code_N = np.frombuffer(text.encode('utf-32-le'), np.uint32)
  bytes_N = 1 + sum(code_N >= least for least in (0x80, 0x800, 0x10000))
  is_unknown_N = tokens == tokenizer.unk_id

  unknown = sorted({chr(code) for code in code_N[is_unknown_N]})
  some = ''.join(unknown[:10])
  files.say(
    f'{split}: {is_unknown_N.sum():,} of {len(tokens):,} characters are not in '
    f'the vocabulary of train and read as {tokenizers.UNK}; {len(unknown)} '
    f'kinds, such as {some!r}'
  )
  return np.where(is_unknown_N, tokenizer.vocab_size - 1 + bytes_N, tokens)


def _tokenizer(
  spec: DataSpec,
  train: Sequence[str],
  workdir: str | os.PathLike[str] | None,
) -> tokenizers.Tokenizer:
  """The one of a run, or a new one."""
  path = None if workdir is None else pathlib.Path(workdir, tokenizers.FILE)
  if path is None or not path.exists():
    return tokenizers.fit(spec.tokenizer, train, spec.vocab_size)

  saved = tokenizers.load(path)
  need(
    saved.name == spec.tokenizer,
    f'data.tokenizer={spec.tokenizer!r}, but {path} is of kind '
    f'{saved.name!r}; use another workdir',
  )
  return saved


def _check_sizes(splits: Mapping[str, np.ndarray], seq_len: int) -> None:
  num_train = len(splits['train'])
  if num_train < seq_len + 1:
    raise ConfigError(
      f'data: the train split has {num_train} tokens, fewer than '
      f'data.seq_len + 1 = {seq_len + 1}; give more text or lower '
      'data.seq_len'
    )
  for name in ('select', 'test'):
    num_tokens = len(splits[name])
    if num_tokens < 2:
      raise ConfigError(
        f'data: the {name} split has {num_tokens} tokens, fewer than '
        f'2; give more text or raise data.{name}_fraction'
      )


def _sha256(splits: Mapping[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  for name in SPLITS:
    # The length keeps a moved boundary from going unseen.
    digest.update(f'{name} {len(splits[name])}\n'.encode())
    digest.update(splits[name].astype('<i4', copy=False).data)
  return digest.hexdigest()
