"""A folder with a model of somebody else, as fields and parameters of ours."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ease_jax.checks import ConfigError, need
from ease_jax.pretrained import rope
from ease_jax.pretrained.families import FAMILIES, Family
from ease_jax.pretrained.gguf import GgufFile
from ease_jax.pretrained.mapping import is_turned, nested, their_name, to_ours
from ease_jax.pretrained.tensors import Tensors

CONFIG = 'config.json'
TOKENIZER = 'tokenizer.json'
UNEMBED = 'unembed'
# Tensors of old files that follow from the config.
DERIVED = re.compile(r'.*\.rotary_emb\.inv_freq')

Json = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]  # of parameters, by a/b/c


@dataclasses.dataclass(frozen=True)
class Source:
  """A downloaded model.

  Attributes:
    folder: where it lies, or the file.
    said: its `config.json`.
    family: of its architecture.
    tensors: its weights.
  """

  folder: pathlib.Path
  said: Json
  family: Family
  tensors: Tensors | GgufFile

  @classmethod
  def at(cls, folder: pathlib.Path) -> 'Source':
    """The model in a folder, or in a file NAME.gguf.

    Raises:
      ConfigError: a file is missing or damaged, or it is a kind of model that
        cannot be had here.
    """
    if folder.suffix == '.gguf':
      need(folder.is_file(), f'{folder} is missing; give a GGUF file')
      file = GgufFile(folder)
      return cls(folder, file.config, file.family, file)
    said = _config(folder / CONFIG)
    family = _family(folder / CONFIG, said)
    return cls(folder, said, family, Tensors(folder))

  @property
  def _config(self) -> pathlib.Path:
    """The file that says what it is, for messages."""
    return self.folder if self.folder.is_file() else self.folder / CONFIG

  @property
  def model_fields(self) -> dict[str, object]:
    """Fields of our section `model`, dotted."""
    family = self.family
    said = dict(family.defaults) | self.said
    missing = [name for name in family.fields if name not in said]
    need(not missing, f'{self._config} lacks {missing}; get it again')
    for name, values in family.accepts.items():
      self._check_accepted(name, values)

    fields = {ours: said[name] for name, ours in family.fields.items()}
    heads = 'block.attention.num_kv_heads'
    fields[heads] = fields[heads] or fields['block.attention.num_heads']
    fields['block.attention.head_dim'] = fields['block.attention.head_dim'] or 0
    base, factors = rope.positions(said, self._head_dim, self._config)
    fields['block.attention.rope_base'] = base
    fields['block.attention.rope_factors'] = factors
    fields['tie_embeddings'] = self.tied
    scalar = said.get('query_pre_attn_scalar')
    need(
      scalar in (None, self._head_dim),
      f'{self._config} says query_pre_attn_scalar={scalar}, and a block can '
      f'have the width of its heads, {self._head_dim}; import another model',
    )
    return fields | dict(family.fixed) | family.more(said)

  @property
  def _head_dim(self) -> int:
    """Width of a head."""
    even = self.said['hidden_size'] // self.said['num_attention_heads']
    return self.said.get('head_dim') or even

  def _check_accepted(self, name: str, values: tuple[object, ...]) -> None:
    there = self.said.get(name)
    items = there if isinstance(there, list) else [there]
    need(
      all(item in (None, *values) for item in items),
      f'{self._config} says {name}={there!r}, and a block can have '
      f'{values} only; import another model',
    )

  @property
  def tied(self) -> bool:
    """Whether the unembedding is the embedding: it has none of its own."""
    has_own = self.family.names[UNEMBED] in self.tensors.shapes
    said = self.said.get('tie_word_embeddings', not has_own)
    need(
      said or has_own,
      f'{self._config} says tie_word_embeddings=False, and there is no '
      f'{self.family.names[UNEMBED]}; get the missing file',
    )
    return said

  @property
  def vocab_size(self) -> int:
    """V: rows of the embedding, which may be more than there are tokens."""
    name = self.family.names['embed']
    need(
      name in self.tensors.shapes,
      f'{self.folder} lacks {name}; get all its files',
    )
    return self.tensors.shapes[name][0]

  @property
  def context(self) -> int | None:
    """Tokens that it was trained to see at once, if it says so."""
    return self.said.get('max_position_embeddings')

  @property
  def eos_id(self) -> int:
    """The token that ends a text."""
    found = self.said.get('eos_token_id')
    if isinstance(found, list):
      found = found[0]
    need(
      isinstance(found, int),
      f'{self._config} says eos_token_id={found!r}; give the number of '
      'the token that ends a text',
    )
    return int(found or 0)

  @property
  def tokenizer_json(self) -> str:
    """Its tokenizer, as the Hugging Face library writes it.

    Raises:
      ConfigError: there is none.
    """
    if isinstance(self.tensors, GgufFile):
      return self.tensors.tokenizer_json
    path = self.folder / TOKENIZER
    need(
      path.is_file(),
      f'{path} is missing; get it too, or write it with '
      "transformers' AutoTokenizer.from_pretrained(...).save_pretrained",
    )
    return path.read_text('utf-8')


def _config(path: pathlib.Path) -> Json:
  need(path.is_file(), f'{path} is missing; give the folder of a model')
  try:
    said = json.loads(path.read_text('utf-8'))
  except ValueError as error:
    raise ConfigError(f'{path} is damaged ({error}); get it again') from error
  need(isinstance(said, dict), f'{path} is no table; get it again')
  return said


def _family(path: pathlib.Path, said: Json) -> Family:
  names = said.get('architectures') or ['?']
  name = names[0]
  need(
    name in FAMILIES,
    f'{path} says architectures={names}, which is not one of '
    f'{", ".join(FAMILIES)}; import another model',
  )
  return FAMILIES[name]


def params_of(source: Source, shapes: Shapes) -> dict[str, Any]:
  """The parameters of our model, float32, each tensor read once.

  Args:
    source: a downloaded model.
    shapes: of our parameters, by their names with slashes.

  Raises:
    ConfigError: tensors are missing, left over, or of other shapes; names
      them.
  """
  ours = {their_name(source.family, name): name for name in shapes}
  _check(source, shapes, ours)
  return nested(
    {
      ours[name]: to_ours(source.family, ours[name], tensor)
      for name, tensor in source.tensors.read(list(ours))
    }
  )


def _check(source: Source, shapes: Shapes, ours: Mapping[str, str]) -> None:
  """Every tensor has one place, and every place one tensor of its shape."""
  there = dict(source.tensors.shapes)
  missing = sorted(set(ours) - set(there))
  need(
    not missing,
    f'{source.folder} lacks {_some(missing)}; get all its files',
  )

  left = {name for name in set(there) - set(ours) if not DERIVED.match(name)}
  if source.tied:
    left -= _copies(source)
  need(
    not left,
    f'{source.folder} has {_some(sorted(left))}, which its config.json does '
    'not account for; import another model',
  )

  for name, our_name in ours.items():
    wanted = shapes[our_name]
    if is_turned(our_name):
      wanted = wanted[::-1]
    need(
      there[name] == wanted,
      f'{source.folder} has {name} of shape {there[name]}, and its config.json '
      f'makes that {wanted}; get both from one place',
    )


def _copies(source: Source) -> set[str]:
  """An unembedding beside a tied embedding, if it is the same."""
  names = [source.family.names[name] for name in ('embed', UNEMBED)]
  if names[1] not in source.tensors.shapes:
    return set()
  embed, unembed = (tensor for _, tensor in source.tensors.read(names))
  return {names[1]} if np.array_equal(embed, unembed) else set()


def _some(names: list[str]) -> str:
  """The first few of many names."""
  shown = ', '.join(names[:8])
  more = len(names) - 8
  return f'{shown} and {more} more' if more > 0 else shown
