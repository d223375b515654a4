"""Memory, cores and terminal of this process, set before JAX makes threads."""

import ctypes
import io
import os
import platform
import sys
from collections.abc import Sequence


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


def cores() -> list[int]:
  """The cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def pin(numbers: Sequence[int]) -> None:
  """Uses only these cores, where the system can be told so."""
  if hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, numbers)
