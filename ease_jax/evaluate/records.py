"""Frozen dataclasses as JSON objects, and back.

A record's object has one key for each of its fields, in their order. Fields
are numbers, texts, dictionaries of these, other records, or tuples of records
or numbers.
"""

import dataclasses
import functools
import json
import pathlib
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn, Self, TypeVar

from ease_jax.checks import ConfigError

Json = dict[str, Any]  # an object; what is in it, the records say


class Inline:
  """Annotates a field whose keys stand among those of its record.

  Attributes:
    none: the keys and nulls that stand for None.
  """

  def __init__(self, none: Mapping[str, None] | None = None):
    self.none = dict(none or {})


class Record:
  """Base of frozen dataclasses that are written as JSON."""

  def to_json(self) -> Json:
    """Plain JSON values; a field that is None by default may be missing."""
    row: Json = {}

    for name, field in _fields(type(self)).items():
      value = getattr(self, name)
      if field.inline:
        row |= field.inline.none if value is None else value.to_json()
      elif value is not None or field.required:
        row[name] = _plain(value)

    return row

  @classmethod
  def from_json(cls, row: Json) -> Self:
    """The record of an object, whose unknown keys are ignored.

    Raises:
      KeyError: the object lacks a key.
    """
    values = {}

    for name, field in _fields(cls).items():
      if field.inline:
        values[name] = _from_json(field.type, row)
      elif name in row or field.required:
        values[name] = _from_json(field.type, row[name])

    return cls(**values)


@dataclasses.dataclass(frozen=True)
class _Field:
  type: Any  # without None
  inline: Inline | None
  required: bool  # it has no default


_R = TypeVar('_R', bound=Record)


@functools.cache
def _fields(cls: Any) -> dict[str, _Field]:
  """Name -> field of a record, in their order."""
  hints = typing.get_type_hints(cls, include_extras=True)
  fields = {}

  for field in dataclasses.fields(cls):
    hint = hints[field.name]
    inline = None
    if typing.get_origin(hint) is Annotated:
      hint, inline = typing.get_args(hint)
    if isinstance(hint, types.UnionType):  # X | None
      hint, _ = typing.get_args(hint)
    required = field.default is dataclasses.MISSING
    fields[field.name] = _Field(hint, inline, required)

  return fields


def _plain(value: Any) -> Any:
  if isinstance(value, Record):
    return value.to_json()
  if isinstance(value, tuple):
    return [_plain(item) for item in value]
  return value


def _from_json(hint: Any, value: Any) -> Any:
  """A value of the type that a field names."""
  if value is None:
    return None
  if typing.get_origin(hint) is tuple:
    item, _ = typing.get_args(hint)
    return tuple(_from_json(item, v) for v in value)
  if hasattr(hint, 'from_json'):
    return hint.from_json(value)
  return value


def read_json(path: pathlib.Path, mode: str) -> Any:
  """A JSON file of a run; `.jsonl` has one value on each line.

  Args:
    path: of the file.
    mode: of `ease_jax.main`, the one that writes it.

  Raises:
    ConfigError: it is missing or damaged.
  """
  if not path.is_file():
    raise ConfigError(f'{path} is missing; make it with --mode={mode}')

  try:
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.jsonl':
      return [_loads(line) for line in text.splitlines() if line.strip()]
    return _loads(text)
  except ValueError as error:  # also of bytes that are not UTF-8
    raise ConfigError(
      f'{path} is not JSON ({error}); make it again with --mode={mode}'
    ) from None


def _loads(text: str) -> Any:
  return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> NoReturn:
  raise ValueError(f'{constant} is no number there')


def parse(cls: type[_R], row: Json, path: pathlib.Path, mode: str) -> _R:
  """The record of a file's object.

  Args:
    cls: what it is.
    row: the object.
    path: of the file, for the message.
    mode: of `ease_jax.main`, the one that writes the file.

  Raises:
    ConfigError: the object lacks a key.
  """
  try:
    return cls.from_json(row)
  except KeyError as error:
    raise ConfigError(
      f'{path} is of another version: it lacks {error}; run --mode={mode} again'
    ) from None
  except (TypeError, AttributeError, ValueError):
    raise ConfigError(f'{path} is damaged; run --mode={mode} again') from None
