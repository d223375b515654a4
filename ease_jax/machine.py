"""Memory, cores, terminal, signals of a process, set before JAX has threads."""

import contextlib
import ctypes
import io
import os
import platform
import re
import signal
import sys
import types
from collections.abc import Iterator, Sequence
from typing import NoReturn

_LONG = re.compile(r'(\d{20})\d{400,}')  # numbers that nobody reads


def keep_mapped() -> None:
  """Makes glibc keep large blocks instead of returning them to the kernel.

  XLA frees and allocates the same activations every step. By default glibc
  unmaps each, and the kernel zeroes all pages again: up to a quarter of a
  small training step on CPU. One arena only, because a thread's own arena is
  unmapped when it empties, whatever the trim threshold says.
  """
  if platform.libc_ver()[0] != 'glibc':
    return
  # As in malloc.h.
  m_trim_threshold = -1
  m_mmap_max = -4
  m_arena_max = -8

  libc = ctypes.CDLL(None)
  libc.mallopt(m_mmap_max, 0)
  libc.mallopt(m_trim_threshold, 2**31 - 1)
  libc.mallopt(m_arena_max, 1)


def print_anything() -> None:
  """Characters that a terminal's encoding lacks are printed as escapes."""
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')


def complain(message: object) -> None:
  """Prints one line on stderr, whatever the message was."""
  line = ' '.join(str(message).split())
  print('ease_jax:', _LONG.sub(r'\1...', line), file=sys.stderr)


def fail(message: object, code: int = 1) -> NoReturn:
  """Ends the process with one line on stderr."""
  complain(message)
  sys.exit(code)


def _stop(number: int, frame: types.FrameType | None) -> NoReturn:
  del frame
  raise KeyboardInterrupt(number)


@contextlib.contextmanager
def stopped_in_a_line() -> Iterator[None]:
  """Ctrl-C and SIGTERM end the process with one line, cleaned up.

  Its exit code is then 1, or 143. Whoever has something to save first handles
  SIGTERM itself meanwhile, as training does.
  """
  signal.signal(signal.SIGTERM, _stop)
  try:
    yield
  except KeyboardInterrupt as stop:
    terminated = stop.args == (signal.SIGTERM,)
    what = 'stopped by SIGTERM' if terminated else 'interrupted'
    print(
      f'ease_jax: {what}; the same command goes on from what is saved',
      file=sys.stderr,
      flush=True,
    )
    print(end='', flush=True)  # also where stdout is closed
    # XLA's threads do not survive the end of an interpreter that is torn down
    # while they work.
    os._exit(128 + signal.SIGTERM if terminated else 1)


def cores() -> list[int]:
  """The cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def pin(numbers: Sequence[int]) -> None:
  """Uses only these cores, where the system can be told so."""
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, numbers)
