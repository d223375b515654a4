"""Silence for what a failed read or write of orbax leaves behind.

Orbax reads and writes all arrays of a checkpoint at once and gives up at the
first that fails. The event loop is closed by then, while the others are still
on their way in threads of their own. Each of them, when it ends, makes Python
or a log print a page about an exception that nobody can handle. None of that
is news: the failure itself has been raised.
"""

import contextlib
import gc
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

# What has been left behind ends within milliseconds of the others.
SILENCE_S = 0.25

_UNAWAITED = 'was never awaited'
_UNRAISABLE = (
  'Event loop is closed',
  'reading array',
  'write_fragment',
  _UNAWAITED,
)
_LOGGED = 'never retrieved'
_LIBRARY = 'orbax'  # a part of the path of its source


class _Ear:
  """Drops what abandoned threads say, and remembers when they last did."""

  def __init__(self):
    self.heard_s = 0.0
    self._next_hook = sys.unraisablehook

  def hook(self, event: Any) -> None:
    """Stands in for `sys.unraisablehook`."""
    text = f'{event.exc_value} {event.object}'
    if any(words in text for words in _UNRAISABLE):
      self.heard_s = time.monotonic()
    else:
      self._next_hook(event)

  def wait(self) -> None:
    """Returns when nobody has spoken for a while."""
    self.heard_s = time.monotonic()
    while time.monotonic() - self.heard_s < SILENCE_S:
      with warnings.catch_warnings():
        warnings.filterwarnings('ignore', f'.*{_UNAWAITED}')
        gc.collect()
      time.sleep(SILENCE_S / 10)

  def filter(self, record: logging.LogRecord) -> bool:
    """Filters the logs of asyncio and of absl."""
    failed = record.levelno >= logging.ERROR and _LIBRARY in record.pathname
    own = failed or _LOGGED in record.getMessage()
    if own:
      self.heard_s = time.monotonic()
    return not own


@contextlib.contextmanager
def abandoned() -> Iterator[None]:
  """Around reads and writes: if one fails, waits for what it left behind.

  Whatever they say meanwhile is dropped. The process is then as it was.
  """
  ear = _Ear()
  hook = sys.unraisablehook
  logs = logging.getLogger('asyncio'), logging.getLogger('absl')
  sys.unraisablehook = ear.hook
  for log in logs:
    log.addFilter(ear)
  try:
    yield
  except Exception as error:
    if ear.heard_s or _is_from_library(error):
      _clear_frames(error)
      ear.wait()
    raise
  finally:
    for log in logs:
      log.removeFilter(ear)
    sys.unraisablehook = hook


def _causes(error: BaseException | None) -> Iterator[BaseException]:
  """An error, what caused it, and so on."""
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__


def _is_from_library(error: BaseException) -> bool:
  return any(
    _LIBRARY in frame.f_code.co_filename
    for cause in _causes(error)
    for frame, _ in traceback.walk_tb(cause.__traceback__)
  )


def _clear_frames(error: BaseException) -> None:
  """Lets go of the threads' work that an error and its causes still hold.

  It would speak when it is collected: better now than later.
  """
  for cause in _causes(error):
    traceback.clear_frames(cause.__traceback__)
