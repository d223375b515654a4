"""The command line in processes that need not import JAX again.

They are forked from one that has imported it and done nothing with it. They
begin in a tenth of the time of new ones, and are as new ones from then on.
"""

import multiprocessing
import os
import pathlib
import runpy
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
PATIENCE = 600  # seconds; the first of them imports JAX
CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload(['ease_jax.run'])


def _main(arguments, cwd, said):
  """What the forked process does: `python -m ease_jax.main` in a folder."""
  os.chdir(cwd)
  for descriptor, path in said.items():
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
  sys.argv[1:] = arguments
  runpy.run_module('ease_jax.main', run_name='__main__', alter_sys=True)


def main(*arguments, cwd=ROOT):
  """Runs the command line; returns its exit code and its lines on stderr."""
  with tempfile.TemporaryDirectory() as folder:
    out, err = (pathlib.Path(folder, name) for name in ('out', 'err'))
    process = CONTEXT.Process(
      target=_main, args=(arguments, cwd, {1: out, 2: err})
    )
    process.start()
    process.join(PATIENCE)
    if process.is_alive():
      process.kill()
      raise AssertionError(f'still running: {arguments}')
    assert out.read_text() == ''
    return process.exitcode, err.read_text().splitlines()
