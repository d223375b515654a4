"""Flags only; `ease_jax.run.run` does the work.

  python -m ease_jax.main --config=configs/quickstart.py --workdir=DIR

Exit codes: 0 done, 1 an error (one line on stderr), 143 stopped by SIGTERM
with everything saved.
"""

import sys
from collections.abc import Sequence
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from ease_jax import machine, userfile

_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'Config file, with :smoke for a run of seconds.',
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


def _fail(message: object, code: int = 1) -> NoReturn:
  """One line on stderr, whatever the message was."""
  print('ease_jax:', ' '.join(str(message).split()), file=sys.stderr)
  sys.exit(code)


def _parse(argv: Sequence[str]) -> list[str]:
  try:
    rest = flags.FLAGS(argv)
    getattr(_CONFIG.value, 'seed', None)  # raises if there is no such file
  except Exception as error:  # a config file may raise anything
    _fail(userfile.explain(error, 'config_config'))
  if len(rest) > 1:
    _fail(f'unexpected argument {rest[1]!r}; flags start with --')
  # Orbax tells all it does; app.run would even ask for that.
  if flags.FLAGS['verbosity'].using_default_value:
    flags.FLAGS.verbosity = logging.ERROR
  return rest


def main(argv: Sequence[str]) -> None:
  del argv
  # Only now, so that a mistyped flag does not wait for JAX.
  from ease_jax import run as run_lib
  from ease_jax.config import ConfigError
  from ease_jax.train import loop as train_loop

  try:
    run_lib.run(_CONFIG.value, str(_WORKDIR.value), _MODE.value, _PROMPT.value)
  except train_loop.Preempted as stop:
    _fail(stop, 143)
  except (ConfigError, train_loop.TrainingDiverged, OSError) as error:
    _fail(error)
  except KeyboardInterrupt:
    _fail('interrupted; the same command continues from the last checkpoint')


if __name__ == '__main__':
  machine.keep_mapped()
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main, flags_parser=_parse)
