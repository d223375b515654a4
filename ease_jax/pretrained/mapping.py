"""Parameters under our names and under those of a family, there and back."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from ease_jax.pretrained.families import LAYER, Family

_OF_LAYER = re.compile(rf'{LAYER}(\d+)(/.*)')

Flat = dict[str, np.ndarray]  # our parameters, by a/b/c


def their_name(family: Family, name: str) -> str:
  """What a family calls one of our parameters.

  Raises:
    KeyError: it has nothing like it.
  """
  layer = _OF_LAYER.fullmatch(name)
  if layer is None:
    return family.names[name]
  return family.names[LAYER + layer[2]].format(layer[1])


def is_turned(name: str) -> bool:
  """Whether a parameter of ours is their tensor transposed."""
  return name.endswith('/kernel')


def to_ours(family: Family, name: str, tensor: np.ndarray) -> np.ndarray:
  """One of our parameters, float32, from a tensor of a family."""
  value = tensor.astype(np.float32)
  if is_turned(name):
    return np.ascontiguousarray(value.T)
  if name.endswith('/scale'):
    return value + np.float32(family.scale)
  return value


def to_theirs(family: Family, name: str, value: np.ndarray) -> np.ndarray:
  """The tensor of a family from one of our parameters."""
  value = np.asarray(value, np.float32)
  if is_turned(name):
    return np.ascontiguousarray(value.T)
  if name.endswith('/scale'):
    return value - np.float32(family.scale)
  return value


def nested(flat: Flat) -> dict[str, Any]:
  """{'a/b': x} -> {'a': {'b': x}}."""
  tree: dict[str, Any] = {}
  for name, value in flat.items():
    *path, leaf = name.split('/')
    group = tree
    for part in path:
      group = group.setdefault(part, {})
    group[leaf] = value
  return tree


def flat(tree: dict[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
  """{'a': {'b': x}} -> ('a/b', x)."""
  for name, value in tree.items():
    if isinstance(value, dict):
      yield from flat(value, f'{prefix}{name}/')
    else:
      yield prefix + name, value
