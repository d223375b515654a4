"""The directory of a run: whose it is, and its config."""

import json
import math
import pathlib
from typing import Any

from ease_jax.checks import ConfigError, need
from ease_jax.config import Config
from ease_jax.train import checkpoint
from ease_jax.train.writers import write_atomic

CONFIG = 'config.json'
# What a later command in the same directory may change: it has no influence
# on the parameters.
FREE_FIELDS = (
  'evaluate.batch_size',
  'evaluate.select_split',
  'evaluate.report_split',
  'evaluate.segments',
  'evaluate.speed_tokens',
  'exit.',
  'generate.',
  'train.log_every',
  'train.tensorboard',
  'train.profile',
)


def as_json(config: Config) -> Any:
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


def dumps(tree: Any) -> str:
  """JSON text of a file in the directory; finite numbers only."""
  return json.dumps(tree, indent=2, allow_nan=False) + '\n'


def write_config(config: Config, folder: pathlib.Path) -> None:
  """Writes `config.json`; from then on the directory is this config's."""
  write_atomic(folder / CONFIG, dumps(as_json(config)))


def check_config(config: Config, folder: pathlib.Path) -> None:
  """Refuses a directory that another config made; writes nothing.

  Raises:
    ConfigError: names every field that differs.
  """
  path = folder / CONFIG
  need(
    folder.is_dir() or not folder.exists(),
    f'--workdir={folder} is a file; choose a directory',
  )
  if not path.exists():
    need(
      not (folder / checkpoint.FOLDER).is_dir(),
      f'{folder} has checkpoints but no config.json, so that nobody can tell '
      'whose they are; choose another --workdir',
    )
    return

  there = _flat(_read(path))
  here = _flat(as_json(config))
  differing = []
  for name in sorted(there.keys() | here.keys()):
    theirs = there.get(name, 'missing')
    ours = here.get(name, 'missing')
    if theirs != ours and not name.startswith(FREE_FIELDS):
      differing.append(f'{name}={theirs} there, {ours} here')

  need(
    not differing,
    f'{folder} was made by another config: {"; ".join(differing)}; choose '
    'another --workdir or the same config',
  )


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except ValueError:
    raise ConfigError(
      f'{path} is not JSON; restore it or choose another --workdir'
    ) from None


def _flat(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'a': {'b': 1}} -> {'a.b': 1}."""
  flat: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      flat |= _flat(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = value
  return flat
