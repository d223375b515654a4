"""Models in a GGUF file, made whole numbers again (the package `gguf`).

The file's own names are those of llama.cpp. What it says of the model is turned
into entries of a `config.json`, its list of tokens into a tokenizer.
"""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tokenizers as hf

from ease_jax.checks import ConfigError, need
from ease_jax.pretrained.families import FAMILIES, Family

SPACE = '\u2581'  # how SentencePiece writes one
# Kinds of tokens, as llama.cpp numbers them.
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4

Json = dict[str, Any]

# What each architecture is called elsewhere.
ARCHITECTURES = {'gemma3': 'Gemma3ForCausalLM'}
# Entries of a config.json, and what the file calls them behind its name.
ENTRIES = {
  'num_hidden_layers': 'block_count',
  'hidden_size': 'embedding_length',
  'intermediate_size': 'feed_forward_length',
  'num_attention_heads': 'attention.head_count',
  'num_key_value_heads': 'attention.head_count_kv',
  'head_dim': 'attention.key_length',
  'rms_norm_eps': 'attention.layer_norm_rms_epsilon',
  'rope_theta': 'rope.freq_base',
  'sliding_window': 'attention.sliding_window',
  'max_position_embeddings': 'context_length',
}
NAMES = {
  'embed': 'token_embd.weight',
  'readout_norm/scale': 'output_norm.weight',
  'unembed': 'output.weight',
  'layer_/query/kernel': 'blk.{}.attn_q.weight',
  'layer_/key/kernel': 'blk.{}.attn_k.weight',
  'layer_/value/kernel': 'blk.{}.attn_v.weight',
  'layer_/out/kernel': 'blk.{}.attn_output.weight',
  'layer_/query_norm/scale': 'blk.{}.attn_q_norm.weight',
  'layer_/key_norm/scale': 'blk.{}.attn_k_norm.weight',
  'layer_/mlp/gate/kernel': 'blk.{}.ffn_gate.weight',
  'layer_/mlp/up/kernel': 'blk.{}.ffn_up.weight',
  'layer_/mlp/down/kernel': 'blk.{}.ffn_down.weight',
  'layer_/attention_norm/scale': 'blk.{}.attn_norm.weight',
  'layer_/attention_out_norm/scale': 'blk.{}.post_attention_norm.weight',
  'layer_/mlp_norm/scale': 'blk.{}.ffn_norm.weight',
  'layer_/mlp_out_norm/scale': 'blk.{}.post_ffw_norm.weight',
}


class GgufFile:
  """A model in one file; its tensors as in `tensors.Tensors`.

  Args:
    path: of the file.

  Raises:
    ConfigError: the package is missing, the file is damaged, or it has a model
      of another architecture.
  """

  def __init__(self, path: pathlib.Path):
    try:
      import gguf
    except ImportError as error:
      raise ConfigError(
        f"{path} needs the package gguf; pip install 'ease_jax[gguf]'"
      ) from error
    self._path = path
    self._dequantize = gguf.dequantize
    try:
      self._reader = gguf.GGUFReader(path)
      self._said = {
        name: field.contents() for name, field in self._reader.fields.items()
      }
      self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
    except Exception as error:  # the package raises whatever a damage leads to
      raise ConfigError(
        f'{path} is damaged or no GGUF file ({error}); get it again'
      ) from error

    self._kind = str(self._said.get('general.architecture'))
    need(
      self._kind in ARCHITECTURES,
      f'{path} has a model of kind {self._kind!r}, which is not one of '
      f'{", ".join(ARCHITECTURES)}; import its safetensors',
    )
    self.shapes = {
      name: tuple(int(size) for size in reversed(tensor.shape))
      for name, tensor in self._tensors.items()
    }

  def read(self, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Some tensors, float32, one at a time in memory."""
    for name in names:
      tensor = self._tensors[name]
      value = self._dequantize(tensor.data, tensor.tensor_type)
      yield name, value.reshape(self.shapes[name])

  @property
  def family(self) -> Family:
    """That of its architecture, with the names and norms of such files.

    Scales of norms lie in it as they are multiplied with.
    """
    family = FAMILIES[ARCHITECTURES[self._kind]]
    names = {name: NAMES[name] for name in family.names}
    return family._replace(names=names, scale=0.0)

  @property
  def config(self) -> Json:
    """What a `config.json` of the model says."""
    found = {
      entry: self._said[f'{self._kind}.{name}']
      for entry, name in ENTRIES.items()
      if f'{self._kind}.{name}' in self._said
    }
    return found | {
      'architectures': [ARCHITECTURES[self._kind]],
      'model_type': FAMILIES[ARCHITECTURES[self._kind]].model_type,
      'bos_token_id': self._said.get('tokenizer.ggml.bos_token_id'),
      'eos_token_id': self._said.get('tokenizer.ggml.eos_token_id'),
    }

  @property
  def tokenizer_json(self) -> str:
    """Its tokenizer, as the Hugging Face library writes it.

    Raises:
      ConfigError: it is no SentencePiece model.
    """
    said = {
      name.removeprefix('tokenizer.ggml.'): value
      for name, value in self._said.items()
    }
    need(
      said.get('model') == 'llama',
      f'{self._path} has a tokenizer of kind {said.get("model")!r}, and only '
      "that of SentencePiece ('llama') can be had; import its safetensors",
    )
    return sentence_pieces(
      said['tokens'],
      said['scores'],
      said['token_type'],
      unk=said['tokens'][said['unknown_token_id']],
      bos=said['bos_token_id'] if said.get('add_bos_token') else None,
    )


def sentence_pieces(
  tokens: Sequence[str],
  scores: Sequence[float],
  kinds: Sequence[int],
  *,
  unk: str,
  bos: int | None,
) -> str:
  """A `tokenizer.json` from the lists of a SentencePiece BPE.

  Args:
    tokens: in the order of their ids.
    scores: the higher, the earlier a token is merged.
    kinds: of each token.
    unk: the one for whatever is none.
    bos: the one before each text; None = there is none.
  """
  ids = {token: i for i, token in enumerate(tokens)}
  model = hf.models.BPE(
    ids, _merges(ids, scores), unk_token=unk, fuse_unk=True, byte_fallback=True
  )
  tokenizer = hf.Tokenizer(model)
  tokenizer.normalizer = hf.normalizers.Replace(' ', SPACE)
  tokenizer.decoder = hf.decoders.Sequence(
    [
      hf.decoders.Replace(SPACE, ' '),
      hf.decoders.ByteFallback(),
      hf.decoders.Fuse(),
    ]
  )
  of_kind = {
    kind: [t for t, own in zip(tokens, kinds, strict=True) if own == kind]
    for kind in (CONTROL, USER_DEFINED)
  }
  tokenizer.add_special_tokens(of_kind[CONTROL])
  # They are found in texts whose spaces were replaced.
  tokenizer.add_tokens(
    [hf.AddedToken(token, normalized=True) for token in of_kind[USER_DEFINED]]
  )
  if bos is not None:
    tokenizer.post_processor = hf.processors.TemplateProcessing(
      single=f'{tokens[bos]} $A', special_tokens=[(tokens[bos], bos)]
    )
  return tokenizer.to_str()


def _merges(
  ids: dict[str, int], scores: Sequence[float]
) -> list[tuple[str, str]]:
  """Every way to make a token of two others, the highest scores first."""
  found: list[tuple[float, int, int, str, str]] = []
  for token, i in ids.items():
    for end in range(1, len(token)):
      left, right = token[:end], token[end:]
      if left in ids and right in ids:
        found.append((-scores[i], ids[left], ids[right], left, right))
  found.sort()
  return [(left, right) for *_, left, right in found]
