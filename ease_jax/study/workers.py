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

Task = tuple[Any, ...]  # the arguments of a worker's function

_CONTEXT = multiprocessing.get_context('spawn')  # JAX does not survive a fork
PATIENCE = 20.0  # seconds in which a stopped run may save its state


class Worker:
  """A process on some of the cores; it is started again when it dies.

  Attributes:
    task: what it is working on, or None.
    pipe: gets what went wrong with the task, when it is done.
  """

  def __init__(self, function: Callable[..., str], cores: Sequence[int]):
    """Starts the process.

    Args:
      function: does a task; returns what went wrong, or nothing. Its module
        is imported by the process.
      cores: numbers of those that the process may use.
    """
    self._function = function
    self._cores = list(cores)
    self.task: Task | None = None
    self._start()

  def _start(self) -> None:
    self.pipe, theirs = _CONTEXT.Pipe()
    arguments = (theirs, self._function, self._cores, os.getpid())
    self._process = _CONTEXT.Process(target=_work, args=arguments)
    self._process.start()
    theirs.close()  # so that its death closes the pipe

  def give(self, task: Task) -> None:
    """Has the process do a task; it must have none."""
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
  busy = [worker for worker in workers if worker.task is not None]
  done = connection.wait([worker.pipe for worker in busy])
  return [worker for worker in busy if worker.pipe in done]


def _work(
  pipe: connection.Connection,
  function: Callable[..., str],
  cores: Sequence[int],
  parent: int,
) -> None:
  """What the process does until the pipe is closed."""
  # Ctrl-C reaches the whole group; the parent decides what it means.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
  machine.keep_mapped()
  machine.pin(cores)
  logging.set_verbosity(logging.ERROR)
  with machine.stopped_in_a_line():
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
