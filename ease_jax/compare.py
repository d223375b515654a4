"""Flags only; `ease_jax.comparison.compare` does the work.

  python -m ease_jax.compare --experiment=configs/experiments/FILE.py \
      --workdir=DIR --data=FOLDER

Exit codes: 0 done, 1 an error or a failed run (a line each on stderr).
"""

import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from ease_jax import allocator

_EXPERIMENT = flags.DEFINE_string(
    'experiment', None, 'Python file with get_experiment; :smoke shrinks it.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the comparison.')
_DATA = flags.DEFINE_string(
    'data', 'data/wikitext2', 'Folder with train.txt, valid.txt, test.txt.')
_JOBS = flags.DEFINE_integer('jobs', 1, 'Runs at a time.')
_SEEDS = flags.DEFINE_list('seeds', None, 'Other seeds than the file has.')


def load(flag: str, data: str) -> Any:
  """The experiment of `FILE.py` or `FILE.py:argument`.

  Raises:
    ConfigError: there is no such file, or it defines none.
  """
  from ease_jax.config import ConfigError, with_argument

  name, _, argument = flag.partition(':')
  path = pathlib.Path(name)
  if not path.is_file():
    raise ConfigError(f'--experiment={name} is no file; give a Python file')
  spec = importlib.util.spec_from_file_location('experiment_file', path)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not inspect.isfunction(getattr(module, 'get_experiment', None)):
    raise ConfigError(
        f'--experiment={name} has no function get_experiment(data)')
  experiment = module.get_experiment(data)
  for variant in experiment.variants.values():
    with_argument(variant, argument)
  return experiment


def main(argv: Sequence[str]) -> None:
  del argv
  import dataclasses

  from ease_jax import comparison
  from ease_jax.config import ConfigError

  try:
    experiment = load(str(_EXPERIMENT.value), _DATA.value)
    if _SEEDS.value is not None:
      experiment = dataclasses.replace(
          experiment, seeds=tuple(int(s) for s in _SEEDS.value))
    failed = comparison.compare(
        experiment, str(_WORKDIR.value), _JOBS.value)
  except (ConfigError, ValueError, OSError) as error:
    failed = [' '.join(str(error).split())]
  except KeyboardInterrupt:
    failed = ['interrupted; the same command goes on from here']
  for line in failed:
    print('ease_jax:', line, file=sys.stderr)
  sys.exit(1 if failed else 0)


if __name__ == '__main__':
  allocator.keep_mapped()
  flags.mark_flags_as_required(['experiment', 'workdir'])
  app.run(main)
