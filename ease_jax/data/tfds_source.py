"""Documents of a prepared TensorFlow Datasets folder, without TensorFlow."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ease_jax.checks import ConfigError, need
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


class Stored(NamedTuple):
  """A split of a prepared dataset.

  Attributes:
    num_examples: documents in it.
    num_bytes: of its files.
  """

  num_examples: int
  num_bytes: int


def read(spec: DataSpec) -> dict[str, list[str]]:
  """The documents of each split, in the order the dataset stores them.

  Args:
    spec: its `path` holds one prepared folder or builder name.

  Raises:
    ConfigError: not a prepared dataset, or one that cannot be read here.
  """
  check_one(spec.path, 'data.path')
  path = spec.path[0]
  return {name: list(some(path, name)) for name in _NAMES}


def check_one(paths: Sequence[str], field: str) -> None:
  """Raises ConfigError unless there is one path."""
  need(
    len(paths) == 1,
    f'{field}={tuple(paths)} must be one TFDS folder or builder name',
  )


def stored(path: str, name: str) -> Stored:
  """What a prepared dataset says about a split.

  Args:
    path: folder or builder name.
    name: of the split.

  Raises:
    ConfigError: as `read` does.
  """
  builder = _checked(path)
  split = builder.info.splits[_stored_name(builder, path, name)]
  return Stored(split.num_examples, split.num_bytes)


def some(
  path: str, name: str, begin: int = 0, end: int | None = None
) -> Iterator[str]:
  """Documents `begin` to `end` of a split, one after the other.

  Args:
    path: folder or builder name.
    name: of the split.
    begin: number of the first one.
    end: number behind the last one; None = all there are.

  Raises:
    ConfigError: as `read` does.
  """
  builder = _checked(path)
  alias = _stored_name(builder, path, name)
  where = f'data.path: {path!r}, a document of {alias!r}'
  try:
    source = builder.as_data_source(alias)
    for number in range(*slice(begin, end).indices(len(source))):
      yield decode(source[number][FIELD], where)
  except ConfigError:
    raise
  except Exception as error:  # whatever a damaged file makes a reader raise
    raise ConfigError(f'{where} cannot be read; prepare it again') from error


def _checked(path: str) -> Builder:
  builder = _builder(path)
  _check(builder, path)
  return builder


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


def _stored_name(builder: Builder, path: str, name: str) -> str:
  """What the dataset calls a split."""
  found = [alias for alias in _NAMES[name] if alias in builder.info.splits]
  need(
    len(found) > 0,
    f'data.path: {path!r} has no split {" or ".join(_NAMES[name])}, only '
    f'{", ".join(builder.info.splits)}; prepare it with that split',
  )
  return found[0]
