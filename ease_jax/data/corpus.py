"""A tokenized corpus: what a `DataSpec` stands for."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ease_jax.checks import ConfigError, need
from ease_jax.data import library, text, tfds_source, tokenizers
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
  """

  source: str
  tokenizer: tokenizers.Tokenizer
  splits: dict[str, np.ndarray]
  sha256: str


def load(spec: DataSpec, workdir: str | os.PathLike[str]) -> Corpus:
  """Reads, splits and encodes the text of a spec.

  Args:
    spec: which text, and how.
    workdir: receives `tokenizer.json`. A BPE that lies there is used again.

  Raises:
    ConfigError: the data is missing, unreadable or too short.
  """
  documents = READERS[spec.source](spec)
  for name, max_chars in spec.max_chars.items():
    if max_chars:
      documents[name], _ = text.cut(documents[name], max_chars)

  tokenizer = _tokenizer(spec, documents['train'], pathlib.Path(workdir))
  splits = {name: encode(tokenizer, documents[name]) for name in SPLITS}
  _check_sizes(splits, spec.seq_len)
  return Corpus(spec.source, tokenizer, splits, _sha256(splits))


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


def _tokenizer(
  spec: DataSpec, train: Sequence[str], workdir: pathlib.Path
) -> tokenizers.Tokenizer:
  path = workdir / 'tokenizer.json'
  if path.exists():
    saved = tokenizers.load(path)
    need(
      saved.name == spec.tokenizer,
      f'data.tokenizer={spec.tokenizer!r}, but {path} is of kind '
      f'{saved.name!r}; use another workdir',
    )
    if saved.name == 'bpe':  # the only one that is slow to fit
      return saved

  tokenizer = tokenizers.fit(spec.tokenizer, train, spec.vocab_size)
  tokenizers.save(tokenizer, path)
  return tokenizer


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
