"""What it takes to make the numbers of a run again."""

import datetime
import importlib.metadata
import pathlib
import platform
import shlex
import subprocess
from collections.abc import Sequence

import jax

from ease_jax.config import Config
from ease_jax.evaluate.facts import Provenance
from ease_jax.fields import as_json
from ease_jax.version import __version__
from ease_jax.workdir import CONFIG

PACKAGES = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')


def provenance(command: str, config: Config | None = None) -> Provenance:
  """Command, versions, commit, date and platform of this process.

  Args:
    command: line of the shell that makes the numbers.
    config: of the run; None for a comparison, which has many.
  """
  versions = {name: importlib.metadata.version(name) for name in PACKAGES}
  now = datetime.datetime.now(datetime.UTC)
  return Provenance(
    command=command,
    versions={
      'python': platform.python_version(),
      **versions,
      'ease_jax': __version__,
    },
    commit=_commit(),
    date=now.isoformat(timespec='seconds'),
    platform=f'{platform.platform()}, {jax.devices()[0].device_kind}',
    config=None if config is None else as_json(config),
  )


def command_line(
  arguments: Sequence[str], module: str = 'ease_jax.main'
) -> str:
  """The line of the shell that starts a module with these arguments."""
  return shlex.join(['python', '-m', module, *arguments])


def again(folder: pathlib.Path) -> str:
  """A command that repeats a run which had none, in a directory beside it."""
  config = f'--config={folder / CONFIG}'
  workdir = f'--workdir={folder}_again'
  return f'{command_line([config, workdir])}  # repeats a run started by Python'


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
