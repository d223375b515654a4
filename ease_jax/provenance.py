"""What it takes to make the numbers of a run again."""

import datetime
import importlib.metadata
import pathlib
import platform
import shlex
import subprocess
import sys

import jax

from ease_jax.evaluate.facts import Provenance
from ease_jax.version import __version__

PACKAGES = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')


def provenance() -> Provenance:
  """Command, versions, commit, date and platform of this process."""
  command = ['python', '-m', 'ease_jax.main', *sys.argv[1:]]
  versions = {name: importlib.metadata.version(name) for name in PACKAGES}
  now = datetime.datetime.now(datetime.UTC)
  return Provenance(
    command=shlex.join(command),
    versions={
      'python': platform.python_version(),
      **versions,
      'ease_jax': __version__,
    },
    commit=_commit(),
    date=now.isoformat(timespec='seconds'),
    platform=f'{platform.platform()}, {jax.devices()[0].device_kind}',
  )


def _commit() -> str:
  """Git commit of this source, `-dirty` when changed; '' outside of git."""
  here = pathlib.Path(__file__)

  def git(*arguments: str) -> str:
    command = ['git', '-C', str(here.parent), *arguments]
    result = subprocess.run(command, capture_output=True, check=True, text=True)
    return result.stdout.strip()

  try:
    # An installed copy may lie below somebody else's repository.
    git('ls-files', '--error-unmatch', here.name)
    return git('describe', '--always', '--dirty', '--abbrev=12', '--exclude=*')
  except (OSError, subprocess.CalledProcessError):
    return ''
