"""Processes that take one task after another and may die without harm."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import connection
from typing import Any

from absl import logging

from ease_jax import machine

_CONTEXT = multiprocessing.get_context('spawn')  # JAX does not survive a fork
PATIENCE = 20.0  # seconds in which a stopped run may save its state


class Worker:
  """A process on some of the cores; it is started again when it dies.

  Attributes:
    task: what it is working on, or None.
  """

  def __init__(self, function: Callable[..., str], cores: Sequence[int]):
    self._function, self._cores = function, list(cores)
    self.task: Any = None
    self._start()

  def _start(self) -> None:
    self.pipe, theirs = _CONTEXT.Pipe()
    self._process = _CONTEXT.Process(
      target=_work, args=(theirs, self._function, self._cores, os.getpid())
    )
    self._process.start()
    theirs.close()  # so that its death closes the pipe

  def give(self, task: Any) -> None:
    self.task = task
    self.pipe.send(task)

  def take(self) -> str:
    """What went wrong with the task, or nothing; waits for it."""
    self.task = None
    try:
      return self.pipe.recv()
    except (EOFError, ConnectionError):
      self._process.join()
      code = self._process.exitcode
      self._start()
      return f'its process died (exit code {code}); the same command goes on'

  def stop(self) -> None:
    """Ends the process; a run that is training saves its state first."""
    if self.task is not None:
      self._process.terminate()
    self.pipe.close()
    self._process.join(PATIENCE)
    if self._process.is_alive():
      self._process.kill()


def ready(workers: Sequence[Worker]) -> list[Worker]:
  """Waits until at least one has finished its task, or died."""
  busy = [w for w in workers if w.task is not None]
  done = connection.wait([w.pipe for w in busy])
  return [w for w in busy if w.pipe in done]


def _work(pipe: Any, function: Any, cores: list[int], parent: int) -> None:
  # Ctrl-C reaches the whole group; the parent decides what it means.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
  machine.keep_mapped()
  machine.pin(cores)
  logging.set_verbosity(logging.ERROR)
  while True:
    try:
      pipe.send(function(*pipe.recv()))
    except (EOFError, BrokenPipeError):
      return


def _end_with(parent: int) -> None:
  """A parent that was killed must leave nobody behind."""
  while os.getppid() == parent:
    time.sleep(0.5)
  os._exit(1)
