"""The Python of the documents runs as it stands."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from ease_jax.study import compare

ROOT = pathlib.Path(__file__).parent.parent
BLOCK = re.compile(r'^```python\n(.*?)^```', re.MULTILINE | re.DOTALL)
CODE = [
  (path.name, code)
  for path in [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
  for code in BLOCK.findall(path.read_text())
]


@pytest.mark.parametrize('name, code', CODE, ids=[name for name, _ in CODE])
def test_code_runs(name, code, tmp_path):
  found = subprocess.run(
    [sys.executable, '-W', 'error', '-c', code],
    cwd=tmp_path,
    env=os.environ | {'JAX_ENABLE_COMPILATION_CACHE': 'false'},
    capture_output=True,
    text=True,
    check=False,
  )
  assert found.returncode == 0, found.stderr


def test_the_study_of_the_guide_can_be_run():
  (code,) = [code for name, code in CODE if name == 'studies.md']
  names = {}
  exec(code, names)
  study = names['get_study']('')
  compare.check_configs(study)
  assert study.pairs == (('four', 'two'),)


def test_there_is_code():
  assert {'README.md', 'decoding.md'} <= {name for name, _ in CODE}
