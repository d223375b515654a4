"""What a `config.json` says of a model, as fields of ours."""

import dataclasses
from typing import Any

from ease_jax.checks import need
from ease_jax.pretrained import rope
from ease_jax.pretrained.entries import number
from ease_jax.pretrained.families import FAMILIES, Family

TIED = 'tie_word_embeddings'
CONTEXT = 'max_position_embeddings'

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Said:
  """The entries of a `config.json`.

  Attributes:
    entries: as they were read.
    where: from which file, for messages.
  """

  entries: Json
  where: object

  @property
  def architecture(self) -> str:
    """The name of its architecture.

    Raises:
      ConfigError: it is none that can be had here.
    """
    names = self.entries.get('architectures')
    name = names[0] if isinstance(names, list) and names else None
    need(
      isinstance(name, str) and name in FAMILIES,
      f'{self.where} says architectures={names}, which is not one of '
      f'{", ".join(FAMILIES)}; import another model',
    )
    return str(name)

  @property
  def family(self) -> Family:
    """That of its architecture."""
    return FAMILIES[self.architecture]

  @property
  def _full(self) -> Json:
    """The entries, with the family's own values for those that are missing.

    Under their usual names, also where the family has others.
    """
    usual = {
      name: self.entries[theirs]
      for name, theirs in self.family.called.items()
      if theirs in self.entries
    }
    full = dict(self.family.defaults) | self.entries | usual
    return {name: value for name, value in full.items() if value is not None}

  def model_fields(self, family: Family) -> dict[str, object]:
    """Fields of our section `model`, dotted.

    Args:
      family: of its architecture, as its file has it.

    Raises:
      ConfigError: an entry is missing, is of another type, or says what no
        block of ours can be.
    """
    for name, values in family.accepts.items():
      self._check_accepted(name, values)

    fields: dict[str, object] = {
      ours: self.number(name, whole=ours != 'block.epsilon')
      for name, ours in family.fields.items()
    }
    head_dim = self._head_dim
    turned = rope.positions(self._full, head_dim, self.where)
    need(
      turned.share == 1 or family.partial,
      f'{self.where} rotates {turned.share} of each head '
      '(partial_rotary_factor), and its blocks all of it; get it again',
    )
    fields['block.attention.head_dim'] = head_dim
    fields['block.attention.num_kv_heads'] = self._kv_heads
    fields['block.attention.rope_share'] = turned.share
    fields['block.attention.rope_base'] = turned.base
    fields['block.attention.rope_factors'] = turned.factors

    kinds = self.entries.get('layer_types')
    layers = fields['num_layers']
    need(
      kinds is None or len(kinds) == layers,
      f'{self.where} says num_hidden_layers={layers}, and its layer_types are '
      f'{0 if kinds is None else len(kinds)}; get it again',
    )
    more = family.more(self._full, self.where) if family.more else {}
    return fields | dict(family.fixed) | more

  @property
  def _kv_heads(self) -> int:
    name = 'num_key_value_heads'
    if name in self._full:
      return int(self.number(name))
    return int(self.number('num_attention_heads'))

  @property
  def _head_dim(self) -> int:
    """Width of a head."""
    if 'head_dim' in self._full:
      return int(self.number('head_dim'))
    dim = int(self.number('hidden_size'))
    return dim // int(self.number('num_attention_heads'))

  def number(self, name: str, whole: bool = True) -> float:
    """An entry that is a number above 0."""
    return number(self._full, name, self.where, whole)

  def _check_accepted(self, name: str, values: tuple[object, ...]) -> None:
    there = self.entries.get(name)
    items = there if isinstance(there, list) else [there]
    can = f'have {" or ".join(map(repr, values))} only' if values else 'not'
    need(
      all(item is None or item in values for item in items),
      f'{self.where} says {name}={there!r}, and a block can {can}; import '
      'another model',
    )

  @property
  def context(self) -> int | None:
    """The longest windows that it was trained for, if it says so."""
    return int(self.number(CONTEXT)) if CONTEXT in self._full else None

  @property
  def eos_ids(self) -> list[int]:
    """The tokens that end a text; the first is the one between documents."""
    found = self.entries.get('eos_token_id')
    given = found if isinstance(found, list) else [found]
    ids = [i for i in given if isinstance(i, int) and i >= 0]
    need(
      bool(ids) and len(ids) == len(given),
      f'{self.where} says eos_token_id={found!r}; give the number of the token '
      'that ends a text',
    )
    return ids
