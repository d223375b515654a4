"""A config's fields as a file has them."""

from typing import Any

import ml_collections

from ease_jax.checks import ConfigError, need

ConfigDict = ml_collections.ConfigDict
Config = Any  # a ConfigDict, whose fields a type checker cannot know


def fill(section: Config, tree: dict[str, Any], path: str) -> None:
  """Sets the fields of a section to those that were written down.

  Args:
    section: with the defaults of all fields.
    tree: what a file has of it.
    path: of the section and a dot; '' = all of a config.

  Raises:
    ConfigError: a section is missing, a field unknown, or a value damaged.
  """
  unknown = sorted(f'{path}{name}' for name in set(tree) - set(section))
  need(
    not unknown,
    f'config.json has {unknown}: it was written by another version of '
    'ease_jax, or names a method that is not registered; use that version, '
    'register the method, or make the run again',
  )
  for name in section:
    is_section = isinstance(section[name], ConfigDict)
    value = tree.get(name, {} if is_section and path else None)
    need(
      isinstance(value, dict) == is_section,
      f'config.json is damaged at {path}{name}; restore it from a copy',
    )
    if is_section:
      fill(section[name], value, f'{path}{name}.')
    elif name in tree:
      _set(section, name, _restored(value), f'{path}{name}')


def _set(section: Config, name: str, value: Any, path: str) -> None:
  try:
    section[name] = value
  except (TypeError, OverflowError):
    raise ConfigError(
      f'config.json is damaged at {path}={value!r}, which should be like '
      f'{section[name]!r}; restore it from a copy'
    ) from None


def _restored(value: Any) -> Any:
  """Lists are tuples again, and names of infinities numbers."""
  if isinstance(value, list):
    return tuple(_restored(item) for item in value)
  return float(value) if value in ('inf', '-inf') else value
