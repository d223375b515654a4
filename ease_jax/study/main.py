"""Flags only; `ease_jax.study.compare.compare` does the work.

  python -m ease_jax.study.main --study=configs/studies/FILE.py \
      --workdir=DIR --data=FOLDER

Exit codes: 0 done, 1 an error or a failed run (a line each on stderr), 143
stopped by SIGTERM.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from absl import app, flags, logging

from ease_jax import machine, userfile
from ease_jax.checks import ConfigError, need

if TYPE_CHECKING:
  from ease_jax.study.study import Study

MAX_DIGITS = 20  # of a seed, and more than any has
MODULE = 'study_file'  # as which the user's file is imported

_STUDY = flags.DEFINE_string(
  'study', None, 'Python file with get_study; :smoke shrinks it.'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the comparison.')
_DATA = flags.DEFINE_string(
  'data', 'data/wikitext2', 'Folder with train.txt, valid.txt, test.txt.'
)
_JOBS = flags.DEFINE_integer('jobs', 1, 'Runs at a time.')
_COMMAND = sys.argv[1:]  # as it was typed
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
  from ease_jax.config import with_argument
  from ease_jax.study.study import Study

  name, _, argument = flag.partition(':')
  path = userfile.locate(name, '--study')
  spec = importlib.util.spec_from_file_location(MODULE, path)
  assert spec and spec.loader
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    need(
      callable(getattr(module, 'get_study', None)),
      f'{name} has no function get_study(data)',
    )
    study = module.get_study(data)
    need(
      isinstance(study, Study),
      f'{name}: get_study returned a {type(study).__name__}; return a '
      'ease_jax.study.study.Study',
    )
    variants = {
      variant: with_argument(config, argument)
      for variant, config in study.variants.items()
    }
  except (Exception, SystemExit) as error:  # a user's file may raise anything
    line = userfile.explain(error, MODULE)
    raise ConfigError(line if name in line else f'{name}: {line}') from error
  return dataclasses.replace(study, variants=variants)


def hinted(line: str, data: str) -> str:
  """A line of an error; it names `--data` if that is what it is about."""
  if os.path.isdir(data) or os.path.join(data, '') not in line:
    return line
  return (
    f'{line}; --data={data} is no folder, give the one with train.txt, '
    'valid.txt and test.txt'
  )


def seeds_of(texts: Sequence[str]) -> tuple[int, ...]:
  """The seeds of `--seeds=0,1,2`.

  Raises:
    ConfigError: one of them is no whole number.
  """
  for text in texts:
    need(
      text.strip().isdecimal() and len(text) <= MAX_DIGITS,
      f'--seeds has {text[:MAX_DIGITS]!r}, which is no whole number; give such '
      'as 0,1,2',
    )
  return tuple(map(int, texts))


def _end(lines: Sequence[object]) -> NoReturn:
  for line in lines:
    print('ease_jax:', ' '.join(str(line).split()), file=sys.stderr)
  sys.exit(1 if lines else 0)


def _parse(argv: Sequence[str]) -> list[str]:
  try:
    rest = flags.FLAGS(argv)
  except flags.Error as error:
    _end([error])
  if len(rest) > 1:
    _end([f'unexpected argument {rest[1]!r}; flags start with --'])
  # JAX tells which accelerators it looked for; app.run would even ask for that.
  if flags.FLAGS['verbosity'].using_default_value:
    flags.FLAGS.verbosity = logging.ERROR
  return rest


def main(argv: Sequence[str]) -> None:
  del argv
  from ease_jax.provenance import command_line
  from ease_jax.study.compare import compare

  try:
    study = load(str(_STUDY.value), _DATA.value)
    if _SEEDS.value is not None:
      study = dataclasses.replace(study, seeds=seeds_of(_SEEDS.value))
    command = command_line(_COMMAND, 'ease_jax.study.main')
    failed = compare(study, str(_WORKDIR.value), _JOBS.value, command)
  except (ConfigError, OSError) as error:
    failed = [hinted(str(error), _DATA.value)]
  _end(failed)


if __name__ == '__main__':
  machine.keep_mapped()
  flags.mark_flags_as_required(['study', 'workdir'])
  with machine.stopped_in_a_line():
    app.run(main, flags_parser=_parse)
