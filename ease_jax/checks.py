"""What every spec checks itself with: one clear line for each mistake."""

from collections.abc import Iterable


class ConfigError(ValueError):
  """A config that cannot run; the message is one line with the fix."""


def need(ok: bool, message: str) -> None:
  """Raises `ConfigError(message)` unless `ok`."""
  if not ok:
    raise ConfigError(message)


def one_of(field: str, value: object, options: Iterable[object]) -> None:
  """Raises ConfigError unless `value`, of a config's `field`, is an option."""
  options = tuple(options)
  names = ', '.join(map(str, options))
  need(value in options, f'{field}={value!r} is unknown; use one of: {names}')


def at_least_one(section: str, spec: object, *fields: str) -> None:
  """Raises ConfigError unless these fields of a spec are 1 or more.

  Args:
    section: of the config that the spec describes, for the message.
    spec: the spec.
    *fields: names of its attributes.
  """
  for field in fields:
    value = getattr(spec, field)
    need(value >= 1, f'{section}.{field}={value} must be at least 1')
