"""Parameters under our names and under those of a family, there and back."""

import re
from collections.abc import Mapping

import numpy as np

from ease_jax.pretrained.family import LAYER, Family
from ease_jax.pretrained.fused import joined

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


def is_turned(family: Family, name: str) -> bool:
  """Whether a parameter of ours is their tensor transposed."""
  return family.turned and name.endswith('/kernel')


def to_ours(family: Family, name: str, tensor: np.ndarray) -> np.ndarray:
  """One of our parameters, float32, from a tensor of a family."""
  value = tensor.astype(np.float32, copy=False)
  if is_turned(family, name):
    return np.ascontiguousarray(value.T)
  if name.endswith('/scale'):
    return value + np.float32(family.scale)
  return np.ascontiguousarray(value)


def to_theirs(family: Family, name: str, value: np.ndarray) -> np.ndarray:
  """The tensor of a family from one of our parameters."""
  value = np.asarray(value, np.float32)
  if is_turned(family, name):
    return np.ascontiguousarray(value.T)
  if name.endswith('/scale'):
    return value - np.float32(family.scale)
  return value


def their_tensors(
  family: Family, params: Mapping[str, np.ndarray], heads: int
) -> dict[str, np.ndarray]:
  """The tensors of a model, as a family has them.

  Args:
    family: which.
    params: ours, by their names with slashes.
    heads: H.
  """
  tensors = {
    their_name(family, name): to_theirs(family, name, value)
    for name, value in params.items()
  }
  return (
    tensors if family.fused is None else joined(tensors, family.fused, heads)
  )
