"""What is known of an architecture.

A family is three tables. `fields` says which field of our section `model` each
entry of its `config.json` is. `accepts` says which values of other entries
mean what our block does; any other value is refused, and so is a tensor that
has no name here. `names` has its name of each of our parameters.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ease_jax.pretrained.fused import Fused

Json = dict[str, Any]

LAYER = 'layer_'  # begins the names of our parameters of a layer


# Entries of a config.json, and which file it is -> fields of ours.
More = Callable[[Json, object], dict[str, object]]


class Family(NamedTuple):
  """One architecture.

  Attributes:
    model_type: its short name in `config.json`.
    fields: our field of section `model` by the entry of `config.json`.
    fixed: our fields that are the same in all its models.
    defaults: entries that a `config.json` may lack.
    accepts: values of further entries, or of each item of their lists; an entry
      that is not there is accepted.
    more: makes further fields of ours from all entries; None = there are none.
    names: its tensor of each parameter of ours; `{}` is the layer's number.
    scale: what its norms add to their scale before they multiply with it.
    called: what it calls entries that others have, by their usual names.
    prefix: begins the names of its tensors, unless none has it.
    turned: whether its matrices are ours transposed.
    partial: whether a part of each head may turn with the position.
    made_here: whether runs of this project may be models of it.
    fused: which of its tensors are several of ours.
  """

  model_type: str
  fields: Mapping[str, str]
  fixed: Mapping[str, object]
  defaults: Mapping[str, object]
  accepts: Mapping[str, tuple[object, ...]]
  names: Mapping[str, str]
  more: More | None = None
  scale: float = 0.0
  called: Mapping[str, str] = {}
  prefix: str = ''
  turned: bool = True
  partial: bool = False
  made_here: bool = True
  fused: Fused | None = None

  @property
  def bare(self) -> 'Family':
    """Its tensors without their prefix."""
    names = {
      ours: theirs.removeprefix(self.prefix)
      for ours, theirs in self.names.items()
    }
    return self._replace(names=names, prefix='')
