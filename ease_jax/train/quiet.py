"""Silence for reads that a failed restore leaves behind.

Orbax reads all arrays of a checkpoint at once and gives up at the first that
fails. The event loop is closed by then, while the other reads are still on
their way in threads of their own. Each of them, when it ends, makes Python
print a page about an exception that nobody can handle. None of that is news:
the failure itself has been raised.
"""

import contextlib
import gc
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

# A read that has been left behind ends within milliseconds of the others.
SILENCE_S = 0.25

_UNRAISABLE = ('Event loop is closed', 'reading array')
_LOGGED = 'never retrieved'


class _Ear:
  """Drops what abandoned reads say, and remembers when they last did."""

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

  def filter(self, record: logging.LogRecord) -> bool:
    """Filters the log of asyncio."""
    if _LOGGED not in record.getMessage():
      return True
    self.heard_s = time.monotonic()
    return False


@contextlib.contextmanager
def abandoned_reads() -> Iterator[None]:
  """Around a read: if it fails, waits until what it left behind has ended.

  Whatever the read says meanwhile is dropped. The process is then as it was.
  """
  ear = _Ear()
  hook = sys.unraisablehook
  log = logging.getLogger('asyncio')
  sys.unraisablehook = ear.hook
  log.addFilter(ear)
  try:
    yield
  except Exception as error:
    _clear_frames(error)
    ear.heard_s = time.monotonic()
    while time.monotonic() - ear.heard_s < SILENCE_S:
      gc.collect()
      time.sleep(SILENCE_S / 10)
    raise
  finally:
    log.removeFilter(ear)
    sys.unraisablehook = hook


def _clear_frames(error: BaseException | None) -> None:
  """Lets go of the reads that an error and its causes still hold.

  They would speak when they are collected: better now than later.
  """
  while error is not None:
    traceback.clear_frames(error.__traceback__)
    error = error.__cause__ or error.__context__
