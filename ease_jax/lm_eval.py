"""Scores a run on tasks of lm-evaluation-harness, with exits and without.

  python -m ease_jax.lm_eval --workdir=DIR --tasks=NAME,... --out=scores.json

Compute stands beside every score. `--include_path` is a folder with files of
tasks of your own. The harness comes with `pip install 'ease_jax[eval]'`.
"""

import importlib.util
from collections.abc import Sequence

from absl import app, flags, logging

from ease_jax import machine
from ease_jax.machine import fail

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of a run.')
_TASKS = flags.DEFINE_list('tasks', None, 'Names of tasks, between commas.')
_INCLUDE = flags.DEFINE_string(
  'include_path', None, 'Folder with files of further tasks.'
)
_LIMIT = flags.DEFINE_integer(
  'limit', None, 'Documents of each task; never = all.', lower_bound=1
)
_OUT = flags.DEFINE_string('out', None, 'JSON file that is written.')


def main(argv: Sequence[str]) -> None:
  if argv[1:]:
    fail(f'unexpected argument {argv[1]!r}; flags start with --')
  if importlib.util.find_spec('lm_eval') is None:
    fail("lm-eval is not installed; pip install 'ease_jax[eval]'")
  # Before libraries of the harness tell what they have found.
  logging.set_verbosity(logging.ERROR)
  # Only now, so that a mistyped flag does not wait for JAX.
  from ease_jax import harness, workdir
  from ease_jax.checks import ConfigError, need
  from ease_jax.files import expanded, write_atomic

  try:
    out = None if _OUT.value is None else expanded(_OUT.value, '--out')
    need(
      out is None or (out.parent.is_dir() and not out.is_dir()),
      f'--out={out} cannot be written; name a file in a folder that is there',
    )
    include = _INCLUDE.value
    need(
      include is None or expanded(include, '--include_path').is_dir(),
      f'--include_path={include} is no folder; name one with files of tasks',
    )
    scores = harness.evaluate(
      str(_WORKDIR.value), _TASKS.value or (), include, _LIMIT.value
    )
    print(scores)
    if out is not None:
      write_atomic(out, workdir.dumps(scores.to_json()))
      print(f'Scores: {out.resolve()}')
  except (ConfigError, OSError) as error:
    fail(error)


if __name__ == '__main__':
  machine.print_anything()
  flags.mark_flags_as_required(['workdir', 'tasks'])
  with machine.stopped_in_a_line():
    app.run(main)
