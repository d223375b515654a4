"""Text to token ids and back: bytes, characters, byte-level BPE, imported.

A tokenizer is saved as `tokenizer.json` beside the model that needs it. For
BPE that is the file of the Hugging Face library, readable by other tools.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import tokenizers as hf

from ease_jax.checks import ConfigError, need
from ease_jax.data import hugging_face
from ease_jax.data.files import encoded, say
from ease_jax.data.pretrained import Pretrained
from ease_jax.files import write_atomic

FILE = 'tokenizer.json'
EOS = '<eos>'
UNK = '<unk>'
_CODE_POINTS = 0x110000
# Characters from which a BPE may take more than a few seconds.
SLOW_TO_FIT = 1_000_000


class Tokenizer(Protocol):
  """What the rest of the package asks of a tokenizer."""

  name: str
  eos_id: int  # stands between documents

  @property
  def unk_id(self) -> int | None:
    """A character that it does not know; None where it knows all."""
    ...

  @property
  def bos_id(self) -> int | None:
    """What every window and prompt begins with; None where nothing does."""
    ...

  @property
  def vocab_size(self) -> int:
    """Number of token ids, V."""
    ...

  @property
  def token_bytes(self) -> np.ndarray:
    """UTF-8 bytes that each token stands for, [V] int32; specials count 1."""
    ...

  def encode(self, text: str) -> np.ndarray:
    """Token ids of a text, [N] int32; never the eos of its own accord."""
    ...

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    """The text of token ids; eos is left out, broken UTF-8 is replaced."""
    ...

  def token_text(self, token: int) -> str:
    """One token for display; specials and lone bytes are spelled out."""
    ...

  def to_json(self) -> str:
    """All that `load` needs to rebuild the tokenizer."""
    ...

  def to_hugging_face(self) -> str:
    """A `tokenizer.json` of the Hugging Face library."""
    ...

  def token_name(self, token: int) -> str:
    """What that file calls a token."""
    ...


class Byte:
  """The 256 bytes of UTF-8; byte 0, absent from text, is eos."""

  name = 'byte'
  vocab_size = 256
  eos_id = 0
  unk_id = None
  bos_id = None

  @property
  def token_bytes(self) -> np.ndarray:
    return np.ones(self.vocab_size, np.int32)

  def encode(self, text: str) -> np.ndarray:
    need(
      '\0' not in text,
      f'the text has a NUL at character {text.find(chr(0))}, which ends a '
      'document of bytes; remove it',
    )
    raw = np.frombuffer(encoded(text), np.uint8)
    return raw.astype(np.int32)

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    raw = np.asarray(ids, np.uint8)
    raw = raw[raw != self.eos_id]
    return raw.tobytes().decode('utf-8', 'replace')

  def token_text(self, token: int) -> str:
    if token == self.eos_id:
      return EOS
    return chr(token) if token < 128 else f'\\x{token:02x}'

  def to_json(self) -> str:
    return json.dumps({'name': self.name})

  def to_hugging_face(self) -> str:
    return hugging_face.bytes_alone(EOS)

  def token_name(self, token: int) -> str:
    return EOS if token == self.eos_id else hugging_face.BYTES[token]


class Char:
  """The characters of the training split, in code point order."""

  name = 'char'
  unk_id = 0
  eos_id = 1
  bos_id = None

  def __init__(self, characters: str):
    self._tokens = [UNK, EOS, *characters]
    self._ids = np.full(_CODE_POINTS, self.unk_id, np.int32)
    codes = [ord(character) for character in characters]
    self._ids[codes] = np.arange(2, len(self._tokens))

  @classmethod
  def fit(cls, texts: Iterable[str]) -> 'Char':
    """The characters that occur in texts."""
    characters = set().union(*texts)
    return cls(''.join(sorted(characters)))

  @property
  def vocab_size(self) -> int:
    return len(self._tokens)

  @property
  def token_bytes(self) -> np.ndarray:
    sizes = np.ones(self.vocab_size, np.int32)
    for i, character in enumerate(self._tokens[2:], 2):
      sizes[i] = len(character.encode('utf-8'))
    return sizes

  def encode(self, text: str) -> np.ndarray:
    codes = np.frombuffer(encoded(text, 'utf-32-le'), np.uint32)
    return self._ids[codes]

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    tokens = ['\ufffd', '', *self._tokens[2:]]
    return ''.join(tokens[i] for i in ids)

  def token_text(self, token: int) -> str:
    return self._tokens[token]

  def to_json(self) -> str:
    characters = ''.join(self._tokens[2:])
    return json.dumps({'name': self.name, 'characters': characters})

  def to_hugging_face(self) -> str:
    return hugging_face.characters(self._tokens, UNK, EOS)

  def token_name(self, token: int) -> str:
    return self._tokens[token]


class Bpe:
  """Byte-level byte pair encoding; every text round-trips."""

  name = 'bpe'
  eos_id = 0
  unk_id = None
  bos_id = None

  def __init__(self, tokenizer: hf.Tokenizer):
    self._tokenizer = tokenizer
    # A text that spells '<eos>' is not the end of a document.
    self._tokenizer.encode_special_tokens = True

  @classmethod
  def fit(cls, texts: Iterable[str], vocab_size: int) -> 'Bpe':
    """Merges learned from texts, up to `vocab_size` tokens."""
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(
      add_prefix_space=False
    )
    tokenizer.decoder = hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
      vocab_size=vocab_size,
      special_tokens=[EOS],
      show_progress=False,
      initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    return cls(tokenizer)

  @property
  def vocab_size(self) -> int:
    return self._tokenizer.get_vocab_size()

  @property
  def token_bytes(self) -> np.ndarray:
    sizes = np.ones(self.vocab_size, np.int32)
    for token, i in self._tokenizer.get_vocab().items():
      if i != self.eos_id:
        sizes[i] = len(token)  # its alphabet has one character per byte
    return sizes

  def encode(self, text: str) -> np.ndarray:
    _ = encoded(text)  # or it raises
    return np.array(self._tokenizer.encode(text).ids, np.int32)

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    return self._tokenizer.decode([int(i) for i in ids])

  def token_text(self, token: int) -> str:
    if token == self.eos_id:
      return EOS
    return self.decode([token])

  def to_json(self) -> str:
    return self._tokenizer.to_str()

  def to_hugging_face(self) -> str:
    return self.to_json()

  def token_name(self, token: int) -> str:
    return self._tokenizer.id_to_token(token) or UNK


def fit(name: str, texts: Sequence[str], vocab_size: int) -> Tokenizer:
  """A new tokenizer.

  Args:
    name: 'byte', 'char' or 'bpe'.
    texts: the training split alone.
    vocab_size: of a 'bpe'; the others have as many tokens as they need.
  """
  if name == 'byte':
    return Byte()
  if name == 'char':
    return Char.fit(texts)
  if name == 'bpe':
    characters = sum(map(len, texts))
    if characters > SLOW_TO_FIT:
      say(
        f'fitting {vocab_size:,} byte pairs to {characters:,} characters; '
        'minutes where the text has no spaces'
      )
    fitted = Bpe.fit(texts, vocab_size)
    if fitted.vocab_size < vocab_size:
      say(
        f'the text has pairs for {fitted.vocab_size:,} tokens, fewer than '
        f'data.vocab_size={vocab_size:,}'
      )
    return fitted
  need(
    name != Pretrained.name,
    f'data.tokenizer={name!r} is that of a model which was imported; name its '
    'run in train.init_from, or use byte, char or bpe',
  )
  raise ConfigError(f'there is no tokenizer {name!r}; use byte, char or bpe')


def save(tokenizer: Tokenizer, path: str | os.PathLike[str]) -> None:
  """Writes a tokenizer; a reader never sees half of the file."""
  write_atomic(pathlib.Path(path), tokenizer.to_json())


def prompt_tokens(tokenizer: Tokenizer, text: str) -> list[int]:
  """What a model continues: a text, behind whatever all texts begin with."""
  tokens = tokenizer.encode(text).tolist()
  return tokens if tokenizer.bos_id is None else [tokenizer.bos_id, *tokens]


def last_tokens(
  tokenizer: Tokenizer, tokens: Sequence[int], most: int
) -> list[int]:
  """The end of a text, begun as the model knows texts to begin.

  Args:
    tokenizer: of the model.
    tokens: at least one; the first of those that are kept gives its place to
      what all texts begin with.
    most: how many are kept.
  """
  kept = list(tokens[-most:])
  if tokenizer.bos_id is not None:
    kept[0] = tokenizer.bos_id
  return kept


def vocabulary(tokenizer: Tokenizer) -> dict[str, str | int]:
  """What two tokenizers agree on if they are the same one.

  Returns:
    tokenizer (its kind), vocab_size and vocab_sha256 (of all its tokens).
  """
  size = tokenizer.vocab_size
  texts = [tokenizer.token_text(token) for token in range(size)]
  digest = hashlib.sha256(json.dumps(texts).encode())
  return {
    'tokenizer': tokenizer.name,
    'vocab_size': size,
    'vocab_sha256': digest.hexdigest(),
  }


def load(path: str | os.PathLike[str]) -> Tokenizer:
  """Rebuilds a saved tokenizer of any kind.

  Raises:
    ConfigError: the file is missing or damaged.
  """
  path = pathlib.Path(path)
  try:
    return from_json(path.read_text(encoding='utf-8'))
  except FileNotFoundError as error:
    raise ConfigError(
      f'{path} is missing; give the folder of a trained model'
    ) from error
  except Exception as error:  # the library raises bare Exceptions
    raise ConfigError(
      f'{path} is damaged; restore it or train in a new folder'
    ) from error


def from_json(text: str) -> Tokenizer:
  """Rebuilds a tokenizer from what its `to_json` returned."""
  saved: dict[str, Any] = json.loads(text)
  if 'model' in saved:
    return Bpe(hf.Tokenizer.from_str(text))
  if saved['name'] == Byte.name:
    return Byte()
  if saved['name'] == Char.name:
    return Char(saved['characters'])
  if saved['name'] == Pretrained.name:
    return Pretrained.from_json(saved)
  raise ValueError(f'{saved["name"]!r} is no tokenizer')
