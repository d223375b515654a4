"""Single files: where they are; those of a run, written whole or not at all."""

import contextlib
import os
import pathlib
from collections.abc import Mapping

from ease_jax.checks import ConfigError, need

Content = str | bytes


def expanded(path: object, field: str) -> pathlib.Path:
  """A path in which `~` is the home of whom it names.

  Args:
    path: a str or a path.
    field: what the error message calls it.

  Raises:
    ConfigError: it is something else, empty, or names a user without a home.
  """
  if not isinstance(path, (str, os.PathLike)):
    raise ConfigError(
      f'{field}={path!r} is {type(path).__name__}, not a path; give a str'
    )
  # It would be the folder that the process happens to stand in.
  need(bool(os.fspath(path)), f'{field} is empty; give a path')
  place = pathlib.Path(os.path.expanduser(path))
  need(
    not str(place).startswith('~'),
    f'{field}={path}: there is no home of such a user here; write the whole '
    'path, or ./~ for a name that starts with it',
  )
  return place


def draft_of(path: pathlib.Path) -> pathlib.Path:
  """Where a file is written before it replaces the one that lies there."""
  return path.with_name(path.name + '.tmp')


def write_atomic(path: pathlib.Path, content: Content) -> None:
  """Replaces a file; a reader or a killed run sees the old or the new one.

  Raises:
    OSError: it cannot be written; names the file, which is as it was.
  """
  write_together({path: content})


def write_together(contents: Mapping[pathlib.Path, Content]) -> None:
  """Replaces files that belong together: all of them, or none.

  Everything that a full disk can stop happens before the first of them is
  replaced.

  Raises:
    OSError: one cannot be written; names it, and all are as they were.
  """
  drafts = {path: draft_of(path) for path in contents}
  try:
    for path, content in contents.items():
      with _naming(path):
        drafts[path].write_bytes(_encoded(content))
    for path, draft in drafts.items():
      with _naming(path):
        os.replace(draft, path)
  except BaseException:
    for draft in drafts.values():
      with contextlib.suppress(OSError):
        draft.unlink()
    raise


def _encoded(content: Content) -> bytes:
  return content.encode('utf-8') if isinstance(content, str) else content


@contextlib.contextmanager
def _naming(path: pathlib.Path):
  """Gives an error the path of the file that was wanted, not of its draft."""
  try:
    yield
  except OSError as error:
    reason = f'{error.strerror}; what lay there is as it was'
    raise OSError(error.errno, reason, str(path)) from error
