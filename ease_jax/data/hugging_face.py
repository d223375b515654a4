"""Our simple tokenizers as the Hugging Face library writes tokenizers."""

from collections.abc import Sequence

import tokenizers as hf

PRINTED = (*range(33, 127), *range(161, 173), *range(174, 256))


def _alphabet() -> list[str]:
  """The character that stands for each byte, as in GPT-2.

  Printed ones stand for themselves, others for those from 256 on.
  """
  others = [byte for byte in range(256) if byte not in PRINTED]
  return [
    chr(byte if byte in PRINTED else 256 + others.index(byte))
    for byte in range(256)
  ]


BYTES = _alphabet()


def bytes_alone(eos: str) -> str:
  """A tokenizer whose tokens are the 256 bytes.

  Args:
    eos: what it calls byte 0, which ends a text.
  """
  vocab = {character: byte for byte, character in enumerate(BYTES)}
  del vocab[BYTES[0]]  # byte 0, absent from text, is the end
  vocab[eos] = 0
  tokenizer = hf.Tokenizer(hf.models.BPE(vocab, []))
  tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = hf.decoders.ByteLevel()
  tokenizer.add_special_tokens([eos])
  return tokenizer.to_str()


def characters(tokens: Sequence[str], unk: str, eos: str) -> str:
  """A tokenizer whose tokens are single characters.

  Args:
    tokens: in the order of their ids.
    unk: the one for all others.
    eos: the one that ends a text.
  """
  vocab = {token: i for i, token in enumerate(tokens)}
  tokenizer = hf.Tokenizer(hf.models.WordLevel(vocab, unk_token=unk))
  every = hf.Regex(r'[\s\S]')
  tokenizer.pre_tokenizer = hf.pre_tokenizers.Split(every, 'isolated')
  tokenizer.decoder = hf.decoders.Fuse()
  tokenizer.add_special_tokens([unk, eos])
  return tokenizer.to_str()
