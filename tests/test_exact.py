"""The tests of `exact.py`, on programs that are compiled as users run them.

XLA reads its flags once, so they have a process of their own.
"""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


def test_equal_bits_of_optimized_programs():
  done = subprocess.run(
    [sys.executable, '-m', 'pytest', HERE / 'exact.py'],
    cwd=HERE.parent,
    env=os.environ | {'JAX_DISABLE_MOST_OPTIMIZATIONS': '0', 'XLA_FLAGS': ''},
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  assert done.returncode == 0, done.stdout
  assert ' passed' in done.stdout
