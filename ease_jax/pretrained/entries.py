"""Entries of a `config.json` that have to be of one kind."""

from typing import Any

from ease_jax.checks import need

Json = dict[str, Any]


def number(
  entries: Json, name: str, where: object, whole: bool = True
) -> float:
  """An entry that is a number above 0.

  Args:
    entries: of a `config.json`.
    name: of the entry.
    where: the file, for messages.
    whole: whether it has to be a whole one.

  Raises:
    ConfigError: it is missing, or anything else.
  """
  value = entries.get(name)
  is_number = isinstance(value, int if whole else (int, float))
  good = is_number and not isinstance(value, bool) and value > 0
  kind = 'whole number' if whole else 'number'
  need(
    good,
    f'{where} says {name}={value!r}, which is no {kind} above 0; get it again',
  )
  return value or 0


def flag(entries: Json, name: str, default: bool, where: object) -> bool:
  """An entry that is true or false.

  Args:
    entries: of a `config.json`.
    name: of the entry.
    default: where there is none.
    where: the file, for messages.

  Raises:
    ConfigError: it is anything else.
  """
  value = entries.get(name, default)
  need(
    isinstance(value, bool),
    f'{where} says {name}={value!r}, which is neither true nor false; get it '
    'again',
  )
  return value
