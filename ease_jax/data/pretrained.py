"""The tokenizer of an imported model, as the Hugging Face library has it."""

import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import tokenizers as hf

from ease_jax.checks import ConfigError, need
from ease_jax.data.files import encoded
from ease_jax.pretrained.gguf import SPACE

NAME = 'a saved run'  # whose tokenizer it is, when nobody says
Json = dict[str, Any]


class Pretrained:
  """Tokens that a model was trained on elsewhere.

  Args:
    content: a `tokenizer.json` of the library.
    eos_id: the token that ends a text.
    vocab_size: V, rows of the model's embedding; the last may have no token.
    where: whose tokenizer it is, for messages.

  Raises:
    ConfigError: the library cannot read the content, or it has more tokens
      than the model.
  """

  name = 'pretrained'
  unk_id = None

  def __init__(
    self, content: str, eos_id: int, vocab_size: int, where: object = NAME
  ):
    try:
      self._tokenizer = hf.Tokenizer.from_str(content)
    except Exception as error:  # the library raises bare Exceptions
      raise ConfigError(
        f'the tokenizer of {where} is damaged ({error}); get it again'
      ) from error
    # A text that spells a special token is a text.
    self._tokenizer.encode_special_tokens = True
    self._content = content
    self.eos_id = eos_id
    self.vocab_size = vocab_size
    most = max(self._tokenizer.get_vocab().values(), default=0)
    need(
      max(most, eos_id) < vocab_size,
      f'the tokenizer of {where} has a token {max(most, eos_id)}, and the '
      f'embedding {vocab_size} rows; get both from one place',
    )

  @classmethod
  def from_json(cls, saved: Json) -> 'Pretrained':
    """What `to_json` wrote."""
    content = json.dumps(saved['tokenizer'])
    return cls(content, saved['eos_id'], saved['vocab_size'])

  @property
  def bos_id(self) -> int | None:
    return self._begins

  @property
  def token_bytes(self) -> np.ndarray:
    return self._sizes_V

  @functools.cached_property
  def _begins(self) -> int | None:
    """The token that it puts before every text; None = there is none."""
    alone = self._tokenizer.encode('a', add_special_tokens=False).ids
    whole = self._tokenizer.encode('a').ids
    return whole[0] if whole[:1] != alone[:1] else None

  @functools.cached_property
  def _sizes_V(self) -> np.ndarray:
    """Bytes of each token, [V] int32; special ones count 1."""
    sizes_V = np.ones(self.vocab_size, np.int32)
    added = self._tokenizer.get_added_tokens_decoder()
    special = {i for i, token in added.items() if token.special}
    # The alphabet of byte-level tokens has one character for each byte.
    by_bytes = 'ByteLevel' in repr(self._tokenizer.decoder)

    for token, i in self._tokenizer.get_vocab().items():
      if i in special or _is_byte(token):
        continue
      if by_bytes and i not in added:
        sizes_V[i] = len(token)
      else:
        sizes_V[i] = len(token.replace(SPACE, ' ').encode('utf-8'))
    return sizes_V

  def encode(self, text: str) -> np.ndarray:
    _ = encoded(text)  # or it raises
    ids = self._tokenizer.encode(text, add_special_tokens=False).ids
    return np.array(ids, np.int32)

  def decode(self, ids: Sequence[int] | np.ndarray) -> str:
    return self._tokenizer.decode([int(i) for i in ids])

  def token_text(self, token: int) -> str:
    text = self.decode([token])
    if text and text != '\ufffd':
      return text
    return self.token_name(token)

  def to_json(self) -> str:
    return json.dumps(
      {
        'name': self.name,
        'eos_id': self.eos_id,
        'vocab_size': self.vocab_size,
        'tokenizer': json.loads(self._content),
      }
    )

  def to_hugging_face(self) -> str:
    return self._content

  def token_name(self, token: int) -> str:
    return self._tokenizer.id_to_token(token) or f'<{token}>'


def _is_byte(token: str) -> bool:
  """Whether a token is one byte, as SentencePiece spells it: <0x0A>."""
  return len(token) == 6 and token.startswith('<0x') and token.endswith('>')
