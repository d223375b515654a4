"""The lock of a directory: who works in it."""

import contextlib
import datetime
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import TextIO

from ease_jax.checks import ConfigError

LOCK = 'lock'


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
  """Nobody else writes in a directory meanwhile; makes it when missing.

  The system lets go of the lock of a process that is gone.

  Raises:
    ConfigError: somebody works there; says who, where and since when.
  """
  missing = not folder.exists()
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / LOCK
  with _lock_file(path) as file:
    now = datetime.datetime.now().astimezone().isoformat(timespec='seconds')
    owner = f'process {os.getpid()} on {socket.gethostname()} since {now}'
    file.truncate(0)
    with contextlib.suppress(OSError):  # a full disk: the lock holds without
      os.write(file.fileno(), owner.encode())
    try:
      yield
    finally:
      path.unlink(missing_ok=True)
      if missing:  # nothing came of it
        with contextlib.suppress(OSError):
          folder.rmdir()


@contextlib.contextmanager
def _lock_file(path: pathlib.Path) -> Iterator[TextIO]:
  """The file, opened and locked."""
  while True:
    with path.open('a+', encoding='utf-8', errors='replace') as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        file.seek(0)
        raise ConfigError(
          f'{path.parent} is in use by {file.read()}; wait for it, or choose '
          'another --workdir'
        ) from None
      if _is_same(path, file):
        yield file
        return
      # Its owner removed it in between: this one locks nobody out.


def _is_same(path: pathlib.Path, file: TextIO) -> bool:
  try:
    return os.path.samestat(path.stat(), os.fstat(file.fileno()))
  except FileNotFoundError:
    return False
