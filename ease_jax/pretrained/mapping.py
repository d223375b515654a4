"""Parameters under our names and under those of a family, there and back."""

import re

import numpy as np

from ease_jax.pretrained.families import LAYER, Family

_OF_LAYER = re.compile(rf'{LAYER}(\d+)(/.*)')


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
