"""The memory allocator of this process, set before JAX makes threads."""

import ctypes
import platform


def keep_mapped() -> None:
  """Makes glibc keep large blocks instead of returning them to the kernel.

  XLA frees and allocates the same activations every step. By default glibc
  unmaps each, and the kernel zeroes all pages again: up to a quarter of a
  small training step on CPU. One arena only, because a thread's own arena is
  unmapped when it empties, whatever the trim threshold says.
  """
  if platform.libc_ver()[0] != 'glibc':
    return
  m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8  # as in malloc.h
  libc = ctypes.CDLL(None)
  libc.mallopt(m_mmap_max, 0)
  libc.mallopt(m_trim_threshold, 2**31 - 1)
  libc.mallopt(m_arena_max, 1)
