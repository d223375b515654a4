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
LAYERS_OF_27B = 62
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
# Entries that say nothing more, and what all models here have.
SAID_ALREADY = (
  'vocab_size',
  'attention.value_length',
  'rope.dimension_count',
  'rope.scaling.type',
  'rope.scaling.factor',
)
ROWS = 4096  # of a matrix, made whole at once
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
    self._check_known()
    self.shapes = {
      name: tuple(int(size) for size in reversed(tensor.shape))
      for name, tensor in self._tensors.items()
    }

  def read(self, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Some tensors, float32, one at a time in memory."""
    for name in names:
      shape = self.shapes[name]
      data = np.atleast_2d(self._tensors[name].data)
      value = np.empty((len(data), shape[-1]), np.float32)
      # A few rows at a time: whole ones take several times their size.
      for start in range(0, len(data), ROWS):
        some = slice(start, start + ROWS)
        value[some] = self._floats(name, data[some])
      yield name, value.reshape(shape)

  def _floats(self, name: str, rows: np.ndarray) -> np.ndarray:
    """Some rows of a tensor, float32."""
    try:
      return self._dequantize(rows, self._tensors[name].tensor_type)
    except (NotImplementedError, ValueError) as error:
      raise ConfigError(
        f'{self._path} has {name} of a kind that cannot be made whole '
        f'({error}); import another file'
      ) from error

  def _check_known(self) -> None:
    """Raises ConfigError if the file says more of the model than is read."""
    known = {*ENTRIES.values(), *SAID_ALREADY}
    own = f'{self._kind}.'
    more = [
      name
      for name in self._said
      if name.startswith(own) and name.removeprefix(own) not in known
    ]
    need(
      not more,
      f'{self._path} says {more[:4]}, which no block here has; import another '
      'model',
    )

  def _get(self, name: str) -> Any:
    """An entry; raises ConfigError where there is none."""
    need(name in self._said, f'{self._path} lacks {name}; get it again')
    return self._said[name]

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
      entry: self._get(f'{self._kind}.{name}')
      for entry, name in ENTRIES.items()
    }
    # The 27B scales queries by this width, and the file does not say so.
    width = found['hidden_size'] // max(found['num_attention_heads'], 1)
    if found['num_hidden_layers'] == LAYERS_OF_27B:
      found['query_pre_attn_scalar'] = width
    else:
      found['query_pre_attn_scalar'] = found['head_dim']

    scaling = self._said.get(f'{self._kind}.rope.scaling.type', 'none')
    if scaling != 'none':
      factor = self._get(f'{self._kind}.rope.scaling.factor')
      found['rope_scaling'] = {'rope_type': scaling, 'factor': factor}
    return found | {
      'architectures': [ARCHITECTURES[self._kind]],
      'model_type': FAMILIES[ARCHITECTURES[self._kind]].model_type,
      'bos_token_id': self._get('tokenizer.ggml.bos_token_id'),
      'eos_token_id': self._get('tokenizer.ggml.eos_token_id'),
    }

  @property
  def tokenizer_json(self) -> str:
    """Its tokenizer, as the Hugging Face library writes it.

    Raises:
      ConfigError: it is no SentencePiece model.
    """
    kind = self._get('tokenizer.ggml.model')
    need(
      kind == 'llama',
      f'{self._path} has a tokenizer of kind {kind!r}, and only that of '
      "SentencePiece ('llama') can be had; import its safetensors",
    )
    # What llama.cpp takes for granted where a file does not say it.
    begins = self._said.get('tokenizer.ggml.add_bos_token', True)
    spaced = self._said.get('tokenizer.ggml.add_space_prefix', True)
    need(
      not spaced,
      f'{self._path} puts a space before texts (add_space_prefix), which '
      'cannot be had; import its safetensors',
    )
    tokens = self._get('tokenizer.ggml.tokens')
    return sentence_pieces(
      tokens,
      self._get('tokenizer.ggml.scores'),
      self._get('tokenizer.ggml.token_type'),
      unk=tokens[self._get('tokenizer.ggml.unknown_token_id')],
      bos=self._get('tokenizer.ggml.bos_token_id') if begins else None,
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
