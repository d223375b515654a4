"""Flags only; `ease_jax.run.run` does the work.

  python -m ease_jax.main --config=configs/quickstart.py --workdir=DIR

A run that was started has its config in its directory: from then on
`--workdir` is enough, and other flags override it. Results go to stdout,
whatever else there is to say to stderr.

Exit codes: 0 done, 1 an error (one line on stderr), 143 stopped by SIGTERM
with everything saved.
"""

import pathlib
import sys
from collections.abc import Sequence

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from ease_jax import machine, userfile
from ease_jax.files import expanded
from ease_jax.machine import complain, fail

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'Config file, with :smoke for a run of seconds; or a config.json. None = '
  'that of the workdir.',
  lock_config=True,
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the run.')
_MODE = flags.DEFINE_enum(
  'mode',
  'all',
  ('all', 'train', 'evaluate', 'report', 'generate', 'export'),
  'all = train, evaluate and report; export writes decoder.jax.',
)
_PROMPT = flags.DEFINE_string(
  'prompt', None, 'Text to continue, for --mode=generate.'
)
_TEXT = flags.DEFINE_string(
  'text', None, 'File, folder or glob to evaluate, for --mode=evaluate.'
)
_MULTIHOST = flags.DEFINE_enum(
  'multihost',
  'off',
  ('off', 'auto', 'env'),
  'Whether this is one of several processes of a run: auto = JAX finds out '
  '(SLURM, Open MPI, Kubernetes, TPU); env = EASE_COORDINATOR (HOST:PORT of '
  'the first), EASE_NUM_PROCESSES, EASE_PROCESS_ID.',
)
MODULE = 'config_config'  # as which ml_collections imports the user's file
_COMMAND = sys.argv[1:]  # as it was typed
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


def _parse(argv: Sequence[str]) -> list[str]:
  logging.set_verbosity(logging.ERROR)
  try:
    # The config's own flags look there for what overrides it.
    sys.argv[:] = _complete(argv)
    rest = flags.FLAGS(sys.argv)
    getattr(_CONFIG.value, 'seed', None)  # raises if there is no such file
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


def _check_config(config: object) -> None:
  """Refuses what a config file returns that did not start from `base()`."""
  from ease_jax.config import base

  is_config = isinstance(config, ml_collections.ConfigDict)
  if not is_config or not base().keys() <= config.keys():
    fail(
      f'get_config() of --config returns {type(config).__name__} without the '
      'fields of a run; change what ease_jax.config.base() returns and return '
      'that'
    )


def main(argv: Sequence[str]) -> None:
  del argv
  # Only now, so that a mistyped flag does not wait for JAX.
  from ease_jax import processes
  from ease_jax import run as run_lib
  from ease_jax.config import ConfigError
  from ease_jax.provenance import command_line
  from ease_jax.train import loop as train_loop

  _check_config(_CONFIG.value)
  if _PROMPT.value is not None and _MODE.value != 'generate':
    fail(f'--prompt does nothing with --mode={_MODE.value}; leave it out')
  try:
    processes.connect(_MULTIHOST.value)
    run_lib.run(
      _CONFIG.value,
      str(_WORKDIR.value),
      _MODE.value,
      _PROMPT.value,
      text=_TEXT.value,
      command=command_line(_COMMAND),
    )
  except train_loop.Preempted as stop:
    fail(stop, 143)
  except (ConfigError, train_loop.TrainingDiverged) as error:
    fail(error)
  except OSError as error:  # of this process alone
    complain(error)
    processes.leave(1)
    sys.exit(1)


if __name__ == '__main__':
  machine.keep_mapped()
  machine.print_anything()
  flags.mark_flag_as_required('workdir')
  with machine.stopped_in_a_line():
    app.run(main, flags_parser=_parse)
