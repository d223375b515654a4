"""Flags only; `ease_jax.study.compare.compare` does the work.

  python -m ease_jax.study.main --study=configs/studies/FILE.py \
      --workdir=DIR --data=FOLDER

Exit codes: 0 done, 1 an error or a failed run (a line each on stderr).
"""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import app, flags

from ease_jax import machine

if TYPE_CHECKING:
  from ease_jax.study.study import Study

_STUDY = flags.DEFINE_string(
  'study', None, 'Python file with get_study; :smoke shrinks it.'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the comparison.')
_DATA = flags.DEFINE_string(
  'data', 'data/wikitext2', 'Folder with train.txt, valid.txt, test.txt.'
)
_JOBS = flags.DEFINE_integer('jobs', 1, 'Runs at a time.')
_SEEDS = flags.DEFINE_list('seeds', None, 'Other seeds than the file has.')


def load(flag: str, data: str) -> Study:
  """The study of `FILE.py` or `FILE.py:argument`.

  Args:
    flag: the file, and what to apply to each of its configs.
    data: folder of the texts.

  Raises:
    ConfigError: there is no such file, or it defines none.
  """
  # Only now, so that a mistyped flag does not wait for JAX.
  from ease_jax.checks import ConfigError
  from ease_jax.config import with_argument

  name, _, argument = flag.partition(':')
  path = pathlib.Path(name)
  if not path.is_file():
    raise ConfigError(f'--study={name} is no file; give a Python file')

  spec = importlib.util.spec_from_file_location('study_file', path)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not inspect.isfunction(getattr(module, 'get_study', None)):
    raise ConfigError(f'--study={name} has no function get_study(data)')

  study = module.get_study(data)
  variants = {
    name: with_argument(config, argument)
    for name, config in study.variants.items()
  }
  return dataclasses.replace(study, variants=variants)


def main(argv: Sequence[str]) -> None:
  del argv
  from ease_jax.study.compare import compare

  try:
    study = load(str(_STUDY.value), _DATA.value)
    if _SEEDS.value is not None:
      seeds = tuple(int(seed) for seed in _SEEDS.value)
      study = dataclasses.replace(study, seeds=seeds)
    failed = compare(study, str(_WORKDIR.value), _JOBS.value)
  except (ValueError, OSError) as error:
    failed = [' '.join(str(error).split())]
  except KeyboardInterrupt:
    failed = ['interrupted; the same command goes on from here']

  for line in failed:
    print('ease_jax:', line, file=sys.stderr)
  sys.exit(1 if failed else 0)


if __name__ == '__main__':
  machine.keep_mapped()
  flags.mark_flags_as_required(['study', 'workdir'])
  app.run(main)
