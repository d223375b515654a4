"""Flags of commands that are given a config, and fields that override it."""

import pathlib
import sys
from collections.abc import Sequence

import ml_collections
from absl import flags, logging

from ease_jax import userfile
from ease_jax.files import expanded
from ease_jax.machine import fail

MODULE = 'config_config'  # as which ml_collections imports the user's file
_SAVED = pathlib.Path(__file__).with_name('saved_config.py')


def _given(argv: Sequence[str], name: str) -> tuple[slice, str] | None:
  """Where a flag stands among the arguments, and its value; the last counts."""
  found = None
  for i, argument in enumerate(argv):
    flag, has_value, value = argument.lstrip('-').partition('=')
    if flag != name or not argument.startswith('-'):
      continue
    if has_value:
      found = slice(i, i + 1), value
    elif i + 1 < len(argv):
      found = slice(i, i + 2), argv[i + 1]
  return found


def _complete(argv: Sequence[str]) -> list[str]:
  """The arguments with a config file: the given one, or the workdir's."""
  argv = list(argv)
  workdir = _given(argv, 'workdir')
  config = _given(argv, 'config')
  if config is not None:
    place, name = config
    if name.endswith('.json'):
      name = f'{_SAVED}:{expanded(name, "--config")}'
    else:
      file, colon, argument = name.partition(':')
      name = f'{userfile.locate(file, "--config")}{colon}{argument}'
    argv[place] = [f'--config={name}']
  elif workdir is not None:
    saved = expanded(workdir[1], '--workdir') / 'config.json'
    if not saved.exists():
      fail(f'--config is missing, and there is no {saved}; give --config=FILE')
    # Before the fields that override it.
    argv.insert(1, f'--config={_SAVED}:{saved}')
  return argv


def parse(config: flags.FlagHolder, argv: Sequence[str]) -> list[str]:
  """Reads the command line; ends the process with a line if it is wrong.

  Args:
    config: the flag of the config.
    argv: the name of the program and its arguments.

  Returns:
    The name of the program.
  """
  logging.set_verbosity(logging.ERROR)
  try:
    # The config's own flags look there for what overrides it.
    sys.argv[:] = _complete(argv)
    rest = flags.FLAGS(sys.argv)
    getattr(config.value, 'seed', None)  # raises if there is no such file
  except SystemExit as error:  # of --help, or of a config file
    if not userfile.is_to_blame(error, MODULE):
      raise
    fail(userfile.explain(error, MODULE))
  except Exception as error:  # a config file may raise anything
    fail(userfile.explain(error, MODULE))
  if len(rest) > 1:
    fail(f'unexpected argument {rest[1]!r}; flags start with --')
  # Orbax tells all it does; app.run would even ask for that.
  if flags.FLAGS['verbosity'].using_default_value:
    flags.FLAGS.verbosity = logging.ERROR
  return rest


def check_config(config: object) -> None:
  """Refuses what a config file returns that did not start from `base()`."""
  from ease_jax.config import base

  is_config = isinstance(config, ml_collections.ConfigDict)
  if not is_config or not base().keys() <= config.keys():
    fail(
      f'get_config() of --config returns {type(config).__name__} without the '
      'fields of a run; change what ease_jax.config.base() returns and return '
      'that'
    )
