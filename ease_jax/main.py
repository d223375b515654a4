"""Flags only; `ease_jax.run.run` does the work.

  python -m ease_jax.main --config=configs/quickstart.py --workdir=DIR

A run that was started has its config in its directory: from then on
`--workdir` is enough, and other flags override it. Results go to stdout,
whatever else there is to say to stderr.

Exit codes: 0 done, 1 an error (one line on stderr), 143 stopped by SIGTERM
with everything saved.
"""

import sys
from collections.abc import Sequence

from absl import app, flags
from ml_collections import config_flags

from ease_jax import command, machine
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
_PROFILE = flags.DEFINE_bool(
  'profile',
  False,
  'Whether training writes a profiler trace of its steps 10 to 15 and says '
  'where their time goes; the same as --config.train.profile=True.',
)
_MULTIHOST = flags.DEFINE_enum(
  'multihost',
  'off',
  ('off', 'auto', 'env'),
  'Whether this is one of several processes of a run: auto = JAX finds out '
  '(SLURM, Open MPI, Kubernetes, TPU); env = EASE_COORDINATOR (HOST:PORT of '
  'the first), EASE_NUM_PROCESSES, EASE_PROCESS_ID.',
)
_COMMAND = sys.argv[1:]  # as it was typed


def _parse(argv: Sequence[str]) -> list[str]:
  return command.parse(_CONFIG, argv)


def main(argv: Sequence[str]) -> None:
  del argv
  # Only now, so that a mistyped flag does not wait for JAX.
  from ease_jax import processes
  from ease_jax import run as run_lib
  from ease_jax.config import ConfigError
  from ease_jax.devices import TRAINING
  from ease_jax.provenance import command_line
  from ease_jax.train import loop as train_loop

  command.check_config(_CONFIG.value)
  if _PROMPT.value is not None and _MODE.value != 'generate':
    fail(f'--prompt does nothing with --mode={_MODE.value}; leave it out')
  if _PROFILE.value:
    if _MODE.value not in TRAINING:
      fail(f'--profile does nothing with --mode={_MODE.value}; leave it out')
    _CONFIG.value.train.profile = True
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
