"""A config as JSON, and as flat fields: where do two configs disagree?"""

import math
from typing import Any

from ease_jax import config as config_lib
from ease_jax.checks import ConfigError, need
from ease_jax.config import Config, ConfigDict

Json = dict[str, Any]

STEPS = 'train.steps'
# What a later command in the same directory may change: it has no influence
# on the parameters.
FREE = (
  'evaluate.batch_size',
  'evaluate.select_split',
  'evaluate.report_split',
  'evaluate.segments',
  'evaluate.speed_tokens',
  'exit.',
  'generate.',
  'mesh.',
  'train.log_every',
  'train.tensorboard',
  'train.profile',
)
# No text has made the parameters of an imported model.
FREE_OF_IMPORTED = (*FREE, 'data.', 'evaluate.')
# What has no influence on the results of an evaluation either.
SILENT = (
  'evaluate.batch_size',
  'generate.',
  'mesh.',
  'train.log_every',
  'train.tensorboard',
  'train.profile',
)
# What a checkpoint does not depend on. Which text it saw, it knows by a hash.
_UNTRAINED = (
  *FREE,
  'data.',
  'evaluate.',
  'train.checkpoint_every',
  'train.keep',
)
# Other runs, which may have moved: a teacher is known by a checksum, and what a
# run started from is in its parameters.
_PLACES = ('loss.teacher', 'train.init_from')
# Sections that runs of older versions do not have.
_NEW = ('mesh',)
_OF_THE_TASK = ('data.documents', 'data.seq_len', 'data.task')


def as_json(config: Config) -> Json:
  """A config as plain JSON; infinite thresholds become strings."""
  return _plain(config.to_dict())


def _plain(value: Any) -> Any:
  if isinstance(value, dict):
    return {name: _plain(field) for name, field in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return str(value)
  return value


def flat(tree: Config | Json, prefix: str = '') -> Json:
  """{'a': {'b': 1}} -> {'a.b': 1}."""
  found: Json = {}
  for name, value in tree.items():
    if isinstance(value, (dict, ConfigDict)):
      found |= flat(value, f'{prefix}{name}.')
    else:
      found[prefix + name] = value
  return found


def of_training(config: Config) -> Json:
  """The fields that decide what a checkpoint holds, flat."""
  imported = config.train.steps == 0 and config.train.fit_tokens == 0
  of_the_task = () if imported else _OF_THE_TASK
  return {
    name: value
    for name, value in flat(as_json(config)).items()
    if name in of_the_task or not name.startswith(_UNTRAINED)
    if name not in _PLACES
  }


def differing(there: Json, here: Json, free: tuple[str, ...] = ()) -> list[str]:
  """What two flat configs disagree about, `FIELD=VALUE there, VALUE here`.

  A field that is new since one was written has its default in it.

  Args:
    there: as it was written.
    here: as it is asked for.
    free: beginnings of names that may differ.
  """
  default = flat(as_json(config_lib.base()))
  found = []

  for name in sorted(there.keys() | here.keys()):
    otherwise = default.get(name, 'missing')
    theirs = there.get(name, otherwise)
    ours = here.get(name, otherwise)
    if theirs != ours and not name.startswith(free):
      found.append(f'{name}={theirs} there, {ours} here')
  return found


def from_json(tree: dict[str, Any]) -> Config:
  """The config that a run wrote to its `config.json`.

  A field, or a section within another, that is new since then has its default.

  Args:
    tree: the file's content.

  Raises:
    ConfigError: it lacks a section, or has a field that this version does not
      know, or a value that the field cannot have.
  """
  c = config_lib.base()
  _fill(c, tree, '')
  return c


def _fill(section: Config, tree: dict[str, Any], path: str) -> None:
  unknown = sorted(f'{path}{name}' for name in set(tree) - set(section))
  need(
    not unknown,
    f'config.json has {unknown}: it was written by another version of '
    'ease_jax, or names a method that is not registered; use that version, '
    'register the method, or make the run again',
  )
  for name in section:
    is_section = isinstance(section[name], ConfigDict)
    may_lack = path or name in _NEW
    value = tree.get(name, {} if is_section and may_lack else None)
    need(
      isinstance(value, dict) == is_section,
      f'config.json is damaged at {path}{name}; restore it from a copy',
    )
    if is_section:
      _fill(section[name], value, f'{path}{name}.')
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
