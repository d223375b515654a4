"""Tensors in safetensors files, read one by one; nothing else is ever read.

Other files of weights are pickles, which run code when they are opened.
"""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import safetensors

from ease_jax.checks import ConfigError, need

WHOLE = 'model.safetensors'
INDEX = 'model.safetensors.index.json'
PICKLES = ('*.bin', '*.pt', '*.pth', '*.ckpt', '*.pkl')

Json = dict[str, Any]


class Tensors:
  """The tensors of a folder, by the names that they have there.

  Args:
    folder: holds model.safetensors, or an index and the files that it names.

  Raises:
    ConfigError: there are none, one is missing, or one is damaged.
  """

  def __init__(self, folder: pathlib.Path):
    self.shapes: dict[str, tuple[int, ...]] = {}
    self._files: dict[str, pathlib.Path] = {}

    for path in _files(folder):
      with _opened(path) as file:
        for name in file.keys():
          need(
            name not in self._files,
            f'{name} is in {self._files.get(name)} and in {path}; leave one of '
            'these files out',
          )
          self._files[name] = path
          self.shapes[name] = tuple(file.get_slice(name).get_shape())

  def read(self, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Some tensors, file by file, one at a time in memory.

    Raises:
      ConfigError: a file cannot be read to its end.
    """
    by_file: dict[pathlib.Path, list[str]] = {}
    for name in names:
      by_file.setdefault(self._files[name], []).append(name)

    for path, some in by_file.items():
      for name in some:
        # Opened anew, as what was read of an open file stays in memory.
        with _opened(path) as file:
          tensor = file.get_tensor(name)
        yield name, tensor


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
  """A file of tensors; what the library finds wrong is one line."""
  try:
    with safetensors.safe_open(path, framework='np') as file:
      yield file
  except (safetensors.SafetensorError, TypeError) as error:
    # TypeError: a type of numbers that NumPy does not have.
    raise ConfigError(
      f'{path} is damaged or no safetensors file ({error}); get it again'
    ) from error


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
  """The files of a model, in order."""
  index = folder / INDEX
  if index.exists():
    names = _indexed(index)
    missing = [name for name in names if not (folder / name).is_file()]
    need(
      not missing,
      f'{index} names {len(names)} files, of which {missing} are missing; get '
      'them too',
    )
    return [folder / name for name in names]

  found = sorted(folder.glob('*.safetensors'))
  if folder / WHOLE in found:
    return [folder / WHOLE]
  need(
    len(found) < 2,
    f'{folder} has {len(found)} *.safetensors, none of which is {WHOLE}, and '
    f'no {INDEX}, which says how they belong together; get it too',
  )
  if found:
    return found
  pickles = sorted(path.name for end in PICKLES for path in folder.glob(end))
  if pickles:
    raise ConfigError(
      f'{folder} has {pickles[0]} and no *.safetensors: that is a pickle, '
      'which may run any code when it is read; convert it where you trust it'
    )
  raise ConfigError(
    f'{folder} has no *.safetensors; give the folder of a downloaded model'
  )


def _indexed(index: pathlib.Path) -> list[str]:
  """Names of files in an index; none lies anywhere else than beside it."""
  try:
    places = json.loads(index.read_text('utf-8'))['weight_map']
    names = sorted(set(places.values()))
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ConfigError(
      f'{index} is damaged ({type(error).__name__}); get it again'
    ) from error
  for name in names:
    need(
      isinstance(name, str) and pathlib.PurePath(name).name == name,
      f'{index} names {name!r}, which is no file beside it; get it again',
    )
  return names
