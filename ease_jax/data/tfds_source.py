"""Documents of a prepared TensorFlow Datasets folder, without TensorFlow."""

from typing import Any

from ease_jax.checks import ConfigError
from ease_jax.data.files import decode
from ease_jax.data.spec import DataSpec
from ease_jax.files import expanded

FIELD = 'text'
Builder = Any  # of TFDS, which is imported only where it is used

# TFDS calls the split that thresholds are chosen on 'validation'.
_NAMES = {
  'train': ('train',),
  'select': ('select', 'validation'),
  'test': ('test',),
}


def read(spec: DataSpec) -> dict[str, list[str]]:
  """The documents of each split, in the order the dataset stores them.

  Args:
    spec: its `path` holds one prepared folder or builder name.

  Raises:
    ConfigError: not a prepared dataset, or one that cannot be read here.
  """
  if len(spec.path) != 1:
    raise ConfigError(
      f'data.path={spec.path} must be one TFDS folder or builder name'
    )
  path = spec.path[0]
  builder = _builder(path)
  _check(builder, path)
  return {name: _split(builder, path, name) for name in _NAMES}


def _builder(path: str) -> Builder:
  import tensorflow_datasets as tfds  # slow to import, and only needed here

  folder = expanded(path, 'data.path')
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


def _check(builder: Builder, path: str) -> None:
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


def _split(builder: Builder, path: str, name: str) -> list[str]:
  stored = [alias for alias in _NAMES[name] if alias in builder.info.splits]
  if not stored:
    raise ConfigError(
      f'data.path: {path!r} has no split {" or ".join(_NAMES[name])}, only '
      f'{", ".join(builder.info.splits)}; prepare it with that split'
    )
  where = f'data.path: {path!r}, a document of {stored[0]!r}'
  try:
    raw = [example[FIELD] for example in builder.as_data_source(stored[0])]
  except Exception as error:  # whatever a damaged file makes a reader raise
    raise ConfigError(f'{where} cannot be read; prepare it again') from error
  return [decode(document, where) for document in raw]
