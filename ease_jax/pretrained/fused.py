"""Queries, keys and values in one tensor, cut apart and put together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ease_jax.checks import need

PARTS = ('query', 'key', 'value')

Shape = tuple[int, ...]


class Fused(NamedTuple):
  """Where a family has one tensor for what are three here.

  A part has the name of the whole with another word in it:
  `h.0.attn.c_attn.bias` is `h.0.attn.query.bias` and two more.

  Attributes:
    module: that word.
    axis: along which the parts lie, of matrices; biases have one axis.
    by_head: each head has its three parts side by side.
  """

  module: str
  axis: int
  by_head: bool = False

  def is_whole(self, name: str) -> bool:
    """Whether a tensor of theirs is three of ours."""
    return self.module in name.split('.')

  def parts(self, name: str) -> list[str]:
    """Names of the parts of one of their tensors."""
    return [
      '.'.join(
        part if word == self.module else word for word in name.split('.')
      )
      for part in PARTS
    ]

  def cut(self, whole: np.ndarray, heads: int) -> list[np.ndarray]:
    """Queries, keys and values."""
    front = np.moveaxis(whole, self._axis(whole), 0)
    groups = heads if self.by_head else 1
    split = front.reshape(groups, len(PARTS), -1, *front.shape[1:])
    return [
      np.moveaxis(part.reshape(-1, *front.shape[1:]), 0, self._axis(whole))
      for part in np.moveaxis(split, 1, 0)
    ]

  def joined(self, parts: Sequence[np.ndarray], heads: int) -> np.ndarray:
    """What `cut` has cut."""
    axis = self._axis(parts[0])
    groups = heads if self.by_head else 1
    fronts = [np.moveaxis(part, axis, 0) for part in parts]
    rest = fronts[0].shape[1:]
    split = [front.reshape(groups, -1, *rest) for front in fronts]
    whole = np.stack(split, 1).reshape(-1, *rest)
    return np.ascontiguousarray(np.moveaxis(whole, 0, axis))

  def _axis(self, tensor: np.ndarray) -> int:
    return self.axis if tensor.ndim > 1 else 0


class Readable(Protocol):
  """Tensors by their names."""

  @property
  def shapes(self) -> Mapping[str, Shape]: ...

  def read(self, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]: ...


class Parts:
  """Tensors of a model, of which fused ones are their parts.

  Args:
    tensors: as they lie in the files.
    fused: which of them.
    heads: H.
    where: the model, for messages.

  Raises:
    ConfigError: one has no three parts of whole heads.
  """

  def __init__(
    self, tensors: Readable, fused: Fused, heads: int, where: object
  ):
    self._tensors = tensors
    self._fused = fused
    self._heads = heads
    self._whole: dict[str, tuple[str, int]] = {}
    self.shapes: dict[str, Shape] = {}

    for name, shape in tensors.shapes.items():
      if not fused.is_whole(name):
        self.shapes[name] = shape
        continue
      axis = fused.axis if len(shape) > 1 else 0
      need(
        len(shape) > 0 and shape[axis] % (len(PARTS) * heads) == 0,
        f'{where} has {name} of shape {shape}, and its config.json says '
        f'{heads} heads of queries, keys and values; get both from one place',
      )
      part = list(shape)
      part[axis] //= len(PARTS)
      for i, part_name in enumerate(fused.parts(name)):
        self._whole[part_name] = name, i
        self.shapes[part_name] = tuple(part)

  def read(self, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Some tensors, one of the files' at a time in memory, each read once."""
    places = [self._whole.get(name, (name, 0))[0] for name in names]
    for name, tensor in self._tensors.read(list(dict.fromkeys(places))):
      if not self._fused.is_whole(name):
        yield name, tensor
        continue
      parts = self._fused.cut(tensor, self._heads)
      yield from (
        (part_name, part)
        for part_name, part in zip(self._fused.parts(name), parts, strict=True)
        if part_name in names
      )


def joined(
  tensors: Mapping[str, np.ndarray], fused: Fused, heads: int
) -> dict[str, np.ndarray]:
  """Tensors of a family, of which parts are put together.

  Args:
    tensors: by their names, all parts among them.
    fused: which of them.
    heads: H.
  """
  found: dict[str, np.ndarray] = {}
  for name, tensor in tensors.items():
    words = name.split('.')
    if PARTS[0] in words:
      words[words.index(PARTS[0])] = fused.module
      whole = '.'.join(words)
      parts = [tensors[part] for part in fused.parts(whole)]
      found[whole] = fused.joined(parts, heads)
    elif not set(PARTS[1:]) & set(words):
      found[name] = tensor
  return found
