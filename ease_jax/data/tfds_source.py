"""Documents of a prepared TensorFlow Datasets folder, without TensorFlow."""

import pathlib
from typing import Any

from ease_jax.config import ConfigError

FIELD = 'text'
# TFDS calls the split that thresholds are chosen on 'validation'.
_NAMES = {
  'train': ('train',),
  'select': ('select', 'validation'),
  'test': ('test',),
}


def read(data: Any) -> dict[str, list[str]]:
  """The documents of each split, in the order the dataset stores them.

  Args:
    data: `config.data`; `path` holds one prepared folder or builder name.

  Raises:
    ConfigError: not a prepared dataset, or one that cannot be read here.
  """
  if len(data.path) != 1:
    raise ConfigError(
      f'data.path={tuple(data.path)} must be one TFDS folder or builder name'
    )
  path = data.path[0]
  builder = _builder(path)
  _check(builder, path)
  return {name: _split(builder, path, name) for name in _NAMES}


def _builder(path: str) -> Any:
  import tensorflow_datasets as tfds  # slow to import, and only needed here

  folder = pathlib.Path(path).expanduser()
  try:
    if folder.is_dir():
      return tfds.builder_from_directory(str(folder))
    return tfds.builder(path)
  # Whatever a foreign builder raises, the data cannot be read.
  except Exception as error:
    kind = 'folder' if folder.is_dir() else 'folder or builder'
    raise ConfigError(
      f'data.path: {path!r} is no prepared TFDS {kind}; prepare one with '
      'python -m ease_jax.data.prepare'
    ) from error


def _check(builder: Any, path: str) -> None:
  if not builder.info.splits:
    raise ConfigError(
      f'data.path: TFDS builder {path!r} is not prepared; prepare it with '
      "file_format='array_record'"
    )
  file_format = builder.info.file_format.value
  if file_format != 'array_record':
    raise ConfigError(
      f'data.path: {path!r} has file format {file_format!r}; prepare it with '
      "file_format='array_record'"
    )
  if FIELD not in builder.info.features:
    raise ConfigError(
      f'data.path: {path!r} has no feature {FIELD!r}, only '
      f'{", ".join(builder.info.features)}; choose a text dataset'
    )


def _split(builder: Any, path: str, name: str) -> list[str]:
  stored = next((n for n in _NAMES[name] if n in builder.info.splits), None)
  if stored is None:
    raise ConfigError(
      f'data.path: {path!r} has no split {" or ".join(_NAMES[name])}, only '
      f'{", ".join(builder.info.splits)}; prepare it with that split'
    )
  source = builder.as_data_source(split=stored)
  try:
    return [example[FIELD].decode('utf-8') for example in source]
  except UnicodeDecodeError as error:
    raise ConfigError(
      f'data.path: {path!r} split {stored!r} is not UTF-8 at byte '
      f'{error.start} of a document; convert it to UTF-8'
    ) from error
