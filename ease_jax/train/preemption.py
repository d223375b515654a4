"""SIGTERM: finish the update at hand, save, and say so."""

import signal
import threading
from typing import Any


class Preempted(Exception):
  """SIGTERM came; everything up to now is saved."""


class Sigterm:
  """Remembers a SIGTERM instead of dying of it."""

  def __init__(self):
    self.received = False

  def __enter__(self) -> 'Sigterm':
    # Python lets only the main thread handle signals.
    self._main = threading.current_thread() is threading.main_thread()
    if self._main:
      self._old = signal.signal(signal.SIGTERM, self._remember)
    return self

  def __exit__(self, *error: Any) -> None:
    if self._main:
      signal.signal(signal.SIGTERM, self._old)

  def _remember(self, *unused: Any) -> None:
    self.received = True
