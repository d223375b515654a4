"""A folder with a model of somebody else, as fields and parameters of ours."""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from ease_jax.checks import ConfigError, need
from ease_jax.pretrained.family import Family
from ease_jax.pretrained.fused import Parts, Readable
from ease_jax.pretrained.gguf import GgufFile
from ease_jax.pretrained.mapping import is_turned, their_name, to_ours
from ease_jax.pretrained.said import TIED, Said
from ease_jax.pretrained.tensors import Tensors

CONFIG = 'config.json'
TOKENIZER = 'tokenizer.json'
UNEMBED = 'unembed'
# Tensors of old files that follow from the config.
DERIVED = re.compile(
  r'.*\.(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias)'
)

Json = dict[str, Any]
Shapes = Mapping[str, tuple[int, ...]]  # of parameters, by a/b/c


@dataclasses.dataclass(frozen=True)
class Source:
  """A downloaded model.

  Attributes:
    folder: where it lies, or the file.
    said: its `config.json`.
    family: of its architecture, as its file has it.
    tensors: its weights.
  """

  folder: pathlib.Path
  said: Said
  family: Family
  tensors: Readable

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
      return cls(folder, Said(file.config, folder), file.family, file)
    said = Said(_entries(folder / CONFIG), folder / CONFIG)
    family = said.family
    tensors: Readable = Tensors(folder)
    if not any(name.startswith(family.prefix) for name in tensors.shapes):
      family = family.bare
    if family.fused is not None:
      heads = int(said.number('num_attention_heads'))
      tensors = Parts(tensors, family.fused, heads, folder)
    return cls(folder, said, family, tensors)

  @property
  def model_fields(self) -> dict[str, object]:
    """Fields of our section `model`, dotted."""
    fields = self.said.model_fields(self.family)
    return fields | {'tie_embeddings': self.tied}

  @property
  def tied(self) -> bool:
    """Whether the unembedding is the embedding: it has none of its own."""
    has_own = self.family.names[UNEMBED] in self.tensors.shapes
    said = self.said.entries.get(TIED, not has_own)
    need(
      isinstance(said, bool),
      f'{self.said.where} says {TIED}={said!r}, which is neither true nor '
      'false; get it again',
    )
    need(
      said or has_own,
      f'{self.said.where} says {TIED}={said}, and there is no '
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
    rows = self.tensors.shapes[name][0]
    said = self.said.entries.get('vocab_size', rows)
    need(
      said == rows,
      f'{self.said.where} says vocab_size={said}, and {name} has {rows} rows; '
      'get both from one place',
    )
    return rows

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


def _entries(path: pathlib.Path) -> Json:
  need(path.is_file(), f'{path} is missing; give the folder of a model')
  try:
    entries = json.loads(path.read_text('utf-8'))
  except ValueError as error:
    raise ConfigError(f'{path} is damaged ({error}); get it again') from error
  need(isinstance(entries, dict), f'{path} is no table; get it again')
  return entries


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

  def size(name: str) -> int:
    return math.prod(shapes[ours[name]])

  # The largest first: while it is copied there is nothing else yet.
  names = sorted(ours, key=size, reverse=True)
  return unflatten_dict(
    {
      # As JAX has them: what writes checkpoints makes a copy of others.
      ours[name]: jax.device_put(to_ours(source.family, ours[name], tensor))
      for name, tensor in source.tensors.read(names)
    },
    sep='/',
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
    if is_turned(source.family, our_name):
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
