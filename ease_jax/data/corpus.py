"""A tokenized corpus: what a config's `data` section stands for."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ease_jax.config import SPLITS, ConfigError
from ease_jax.data import text, tfds_source, tokenizers


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Token arrays and the tokenizer that made them."""

  source: str  # of config.SOURCES
  tokenizer: tokenizers.Tokenizer
  splits: dict[str, np.ndarray]  # train, select, test: [N] int32
  sha256: str  # of all three token arrays


def load(config: Any, workdir: str | os.PathLike[str]) -> Corpus:
  """Reads, splits and encodes the data that a config names.

  Args:
    config: a run's config; only `config.data` is read.
    workdir: receives `tokenizer.json`. A BPE that lies there is used again.

  Raises:
    ConfigError: the data is missing, unreadable or too short.
  """
  data = config.data
  reader = tfds_source if data.source == 'tfds' else text
  documents = reader.read(data)
  for name in SPLITS:
    if limit := data[f'{name}_chars']:
      documents[name], _ = text.cut(documents[name], limit)
  tokenizer = _tokenizer(data, documents['train'], pathlib.Path(workdir))
  splits = {name: encode(tokenizer, documents[name]) for name in SPLITS}
  _check_sizes(splits, data.seq_len)
  return Corpus(data.source, tokenizer, splits, _sha256(splits))


def encode(
  tokenizer: tokenizers.Tokenizer, documents: Sequence[str]
) -> np.ndarray:
  """Documents as one array of tokens [N] int32, one eos between two."""
  parts: list[np.ndarray] = []
  for document in documents:
    parts += [
      np.array([tokenizer.eos_id], np.int32),
      tokenizer.encode(document),
    ]
  return np.concatenate(parts[1:]) if parts else np.zeros(0, np.int32)


def _tokenizer(
  data: Any, train: Sequence[str], workdir: pathlib.Path
) -> tokenizers.Tokenizer:
  path = workdir / 'tokenizer.json'
  if path.exists():
    saved = tokenizers.load(path)
    if saved.name != data.tokenizer:
      raise ConfigError(
        f'data.tokenizer={data.tokenizer!r}, but {path} is of kind '
        f'{saved.name!r}; use another workdir'
      )
    if saved.name == 'bpe':  # the only one that is slow to fit
      return saved
  tokenizer = tokenizers.fit(data.tokenizer, train, data.vocab_size)
  tokenizers.save(tokenizer, path)
  return tokenizer


def _check_sizes(splits: Mapping[str, np.ndarray], seq_len: int) -> None:
  if len(splits['train']) < seq_len + 1:
    raise ConfigError(
      f'data: the train split has {len(splits["train"])} tokens, fewer than '
      f'data.seq_len + 1 = {seq_len + 1}; give more text or lower '
      'data.seq_len'
    )
  for name in ('select', 'test'):
    if len(splits[name]) < 2:
      raise ConfigError(
        f'data: the {name} split has {len(splits[name])} tokens, fewer than '
        f'2; give more text or raise data.{name}_fraction'
      )


def _sha256(splits: Mapping[str, np.ndarray]) -> str:
  digest = hashlib.sha256()
  for name in SPLITS:  # the length keeps a moved boundary from going unseen
    digest.update(f'{name} {len(splits[name])}\n'.encode())
    digest.update(splits[name].astype('<i4', copy=False).data)
  return digest.hexdigest()
