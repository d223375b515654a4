"""SIGTERM: finish the update at hand, save, and say so."""

import signal
import threading
import types


class Preempted(Exception):
  """SIGTERM came; everything up to now is saved."""


class Sigterm:
  """Remembers a SIGTERM instead of dying of it; a context manager.

  Outside of the main thread, where Python handles no signals, it remembers
  none.

  Attributes:
    received: whether one has come.
  """

  def __init__(self):
    self.received = False

  def __enter__(self) -> 'Sigterm':
    main_thread = threading.main_thread()
    self._handles = threading.current_thread() is main_thread
    if self._handles:
      self._previous = signal.signal(signal.SIGTERM, self._remember)
    return self

  def __exit__(self, *error: object) -> None:
    if self._handles:
      signal.signal(signal.SIGTERM, self._previous)

  def _remember(self, signum: int, frame: types.FrameType | None) -> None:
    del signum, frame
    self.received = True
