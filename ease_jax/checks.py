"""What every spec checks itself with: one clear line for each mistake.

A spec declares beside each of its fields what it may hold, in the field's type:

  batch_size: Count
  dropout: Annotated[float, Range(0, 1, below=True)]
  signals: tuple[Annotated[str, OneOf(SIGNALS)], ...]
  vocab_size: Annotated[int, Range(257), ReadIf('tokenizer', ('bpe',))]

`check_fields` holds the fields to it, `check_read` refuses a change of a field
that nobody reads.
"""

import collections.abc
import dataclasses
import functools
import math
import numbers
import sys
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Annotated, Any

Hint = Any  # a type, as an annotation says it


class ConfigError(ValueError):
  """A config that cannot run; the message is one line with the fix."""


def need(ok: bool, message: str) -> None:
  """Raises `ConfigError(message)` unless `ok`."""
  if not ok:
    raise ConfigError(message)


def shown(value: object) -> str:
  """A value as a message shows it, even one that Python will not print."""
  try:
    return repr(value)
  except ValueError:  # a whole number of thousands of digits
    return '(more digits than can be printed)'


def one_of(field: str, value: object, options: Iterable[object]) -> None:
  """Raises ConfigError unless `value`, of a config's `field`, is an option."""
  fault = OneOf(tuple(options)).fault(value)
  need(not fault, f'{field}={shown(value)} {fault}')


@dataclasses.dataclass(frozen=True)
class Range:
  """Mark of a number: it lies between two others. NaN never does.

  Attributes:
    low: the lowest.
    high: the highest.
    above: the lowest itself is out.
    below: the highest itself is out.
    infinite: plus and minus infinity are in.
  """

  low: float = -sys.float_info.max
  high: float = sys.float_info.max
  above: bool = False
  below: bool = False
  infinite: bool = False

  def fault(self, value: float) -> str:
    """What is wrong with a number; '' if nothing is."""
    is_whole = isinstance(value, numbers.Integral)  # no float may hold it
    if not is_whole and not math.isfinite(value):
      passes = self.infinite and math.isinf(value)
      return '' if passes else 'must be a finite number'
    if value < self.low:
      return f'must be {"above" if self.above else "at least"} {self.low}'
    if value > self.high:
      return f'must be {"below" if self.below else "at most"} {self.high}'
    if self.above and value == self.low:
      return f'must be above {self.low}'
    if self.below and value == self.high:
      return f'must be below {self.high}'
    return ''


@dataclasses.dataclass(frozen=True, eq=False)
class OneOf:
  """Mark of a name: it is one of some.

  Attributes:
    options: the names, a registry of them, or a function that returns them;
      read when a value is checked, as registries grow.
  """

  options: Collection[object] | Callable[[], Collection[object]]

  def fault(self, value: object) -> str:
    """What is wrong with a name; '' if nothing is."""
    options = self.options() if callable(self.options) else self.options
    if value in options:
      return ''
    return f'is unknown; use one of: {", ".join(map(str, options))}'


@dataclasses.dataclass(frozen=True)
class Filled:
  """Mark of a text: it is not empty, as that of an unset variable is."""

  def fault(self, value: str) -> str:
    """What is wrong with a text; '' if nothing is."""
    return '' if value.strip() else 'is empty; give a text'


@dataclasses.dataclass(frozen=True)
class Different:
  """Mark of a tuple: no item is there twice."""

  def fault(self, value: tuple[object, ...]) -> str:
    """What is wrong with a tuple; '' if nothing is."""
    twice = [item for i, item in enumerate(value) if item in value[:i]]
    return f'names {twice[0]!r} twice' if twice else ''


@dataclasses.dataclass(frozen=True)
class ReadIf:
  """Mark of a field: it means something beside some values of another.

  Attributes:
    field: the other one, of the same section of the config.
    values: those of its values, or of its items; () = all but 0, '' and ().
  """

  field: str
  values: tuple[object, ...] = ()

  def holds(self, section: Mapping[str, Any]) -> bool:
    """Whether the field is read, given all fields of its section."""
    other = section[self.field]
    if not self.values:
      return bool(other)
    items = other if isinstance(other, tuple) else ()
    return other in self.values or any(item in self.values for item in items)

  def __str__(self) -> str:
    if not self.values:
      return f'{self.field} is on'
    return f'{self.field} is {" or ".join(map(str, self.values))}'

  def fault(self, value: object) -> str:
    """Nothing is wrong with a value alone."""
    del value
    return ''


# Positions and counts are int32 on the device.
Count = Annotated[int, Range(1, 2**31 - 1)]
Size = Annotated[int, Range(0, 2**31 - 1)]  # 0 = off, or all of them
# A deeper model could not be unrolled into a program.
MOST_DEPTH = 1000
Depth = Annotated[int, Range(1, MOST_DEPTH)]
Layers = Annotated[int, Range(0, MOST_DEPTH)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Share = Annotated[float, Range(0, 1)]
NotNegative = Annotated[float, Range(0)]
Threshold = Annotated[float, Range(infinite=True)]

# Of each plain type: the classes of its values, its name, an example.
_PLAIN: dict[type, tuple[type, str, str]] = {
  bool: (bool, 'True or False', 'True'),
  int: (numbers.Integral, 'a whole number', '1'),
  float: (numbers.Real, 'a number', '0.5'),
  str: (str, 'a text', "'text'"),
}


def plain(section: Mapping[str, Any]) -> dict[str, Any]:
  """The fields of a config's section; lists as tuples, sections as dicts."""
  return {name: _frozen(value) for name, value in section.items()}


def _frozen(value: Any) -> Any:
  if isinstance(value, (list, tuple)):
    return tuple(map(_frozen, value))
  return plain(value) if hasattr(value, 'items') else value


def check_fields(section: str, spec: object, *names: str) -> None:
  """Raises ConfigError unless the fields of a spec hold what they declare.

  Args:
    section: of the config that the spec describes, for the message.
    spec: a dataclass.
    *names: of its fields; none = all of them.
  """
  hints = declared(type(spec))
  for name in names or hints:
    check_value(f'{section}.{name}', getattr(spec, name), hints[name])


def check_value(field: str, value: object, hint: Hint) -> None:
  """Raises ConfigError unless a field's value is what a type declares.

  Args:
    field: its name, for the message.
    value: of the field.
    hint: a type with marks.
  """
  if typing.get_origin(hint) is collections.abc.Mapping:
    for name, item in typing.cast(Mapping[str, Any], value).items():
      check_value(f'{field}.{name}', item, typing.get_args(hint)[1])
    return
  fault = _fault(value, hint)
  need(not fault, f'{field}={shown(value)} {fault}')


def check_read(
  section: str,
  spec: type,
  values: Mapping[str, Any],
  default: Mapping[str, Any],
) -> None:
  """Raises ConfigError if a field that is not read differs from its default.

  Args:
    section: of the config that the spec describes, for the message.
    spec: the dataclass that declares the fields.
    values: of all fields of the section.
    default: the same of the base config.
  """
  for name, hint in declared(spec).items():
    for mark in _marks(hint):
      if not isinstance(mark, ReadIf) or mark.holds(values):
        continue
      need(
        values[name] == default[name],
        f'{section}.{name}={values[name]!r} has no effect: it is read where '
        f'{section}.{mark} only, and that is {values[mark.field]!r}; change '
        f'that, or leave {name} at {default[name]!r}',
      )


@functools.cache
def declared(spec: type) -> dict[str, Hint]:
  """The type of each field of a dataclass, with its marks."""
  hints = typing.get_type_hints(spec, include_extras=True)
  return {
    field.name: hints[field.name]
    for field in dataclasses.fields(spec)  # type: ignore[arg-type]
  }


def _marks(hint: Hint) -> tuple[Any, ...]:
  is_marked = typing.get_origin(hint) is Annotated
  return typing.get_args(hint)[1:] if is_marked else ()


def _fault(value: Any, hint: Hint) -> str:
  """What is wrong with a value of a type; '' if nothing is."""
  origin = typing.get_origin(hint)
  if origin is Annotated:
    kind, *marks = typing.get_args(hint)
    faults = (mark.fault(value) for mark in marks)
    return _fault(value, kind) or next(filter(None, faults), '')
  if origin is tuple:
    return _tuple_fault(value, hint)
  if hint not in _PLAIN:
    return ''  # another spec, which checks itself

  kind, name, _ = _PLAIN[hint]
  is_number = kind is not bool and isinstance(value, bool)
  ok = isinstance(value, kind) and not is_number
  return '' if ok else f'must be {name}'


def _tuple_fault(value: Any, hint: Hint) -> str:
  kinds = list(typing.get_args(hint))
  if not isinstance(value, tuple):
    return f'must look like {_example(hint)}'
  if kinds[-1] is Ellipsis:
    kinds = kinds[:1] * len(value)
  if len(kinds) != len(value):
    return f'must look like {_example(hint)}'
  return _items_fault(value, kinds)


def _items_fault(items: Iterable[Any], kinds: Iterable[Hint]) -> str:
  for item, kind in zip(items, kinds):
    fault = _fault(item, kind)
    if fault:
      return f'holds {shown(item)}, which {fault}'
  return ''


def _example(hint: Hint) -> str:
  if typing.get_origin(hint) is Annotated:
    return _example(typing.get_args(hint)[0])
  if hint in _PLAIN:
    return _PLAIN[hint][2]
  items = [
    '...' if kind is Ellipsis else _example(kind)
    for kind in typing.get_args(hint)
  ]
  return f'({", ".join(items)})'
