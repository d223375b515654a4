"""Tokens in several arrays, and documents, read by stretches."""

import bisect
import dataclasses
import functools
import os
import pathlib
import weakref
from collections.abc import Sequence

import numpy as np

from ease_jax.checks import need
from ease_jax.data.pipeline import Tokens


class NumberFile:
  """Whole numbers in a file, of which stretches are read.

  It is not mapped into memory: each read of a few tokens would leave pages
  around them there, at more than twice the cost.

  Args:
    path: of the file.
    dtype: of its numbers.

  Raises:
    OSError: it cannot be opened.
  """

  def __init__(self, path: pathlib.Path, dtype: np.dtype):
    self._path = path
    self._dtype = dtype
    self._descriptor = os.open(path, os.O_RDONLY)
    weakref.finalize(self, os.close, self._descriptor)
    self._length = os.fstat(self._descriptor).st_size // dtype.itemsize
    # Windows are read here and there: what follows them is of no use.
    if hasattr(os, 'posix_fadvise'):
      os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_RANDOM)

  def __len__(self) -> int:
    return self._length

  def __getitem__(self, stretch: slice, /) -> np.ndarray:
    """Numbers `stretch.start` to `stretch.stop`, or the first of them."""
    start, stop, _ = stretch.indices(self._length)
    size = self._dtype.itemsize
    raw = os.pread(self._descriptor, (stop - start) * size, start * size)
    need(len(raw) > 0, f'{self._path} has become shorter; restore it')
    return np.frombuffer(raw, self._dtype)


@dataclasses.dataclass(frozen=True)
class TokenFiles:
  """Tokens in arrays end to end, in files or in memory; read by stretches.

  Attributes:
    parts: arrays of whole numbers.
    vocab_size: V; numbers from there on are of unknown characters.
    unk_id: what those are read as; None = they are read as they are.
  """

  parts: tuple[Tokens, ...]
  vocab_size: int
  unk_id: int | None

  @functools.cached_property
  def _ends(self) -> list[int]:
    return np.cumsum([len(part) for part in self.parts]).tolist()

  def __len__(self) -> int:
    return self._ends[-1]

  def __getitem__(self, stretch: slice, /) -> np.ndarray:
    """Tokens `stretch.start` to `stretch.stop`, [n] int32."""
    start, stop, _ = stretch.indices(len(self))
    read_N = np.empty(max(0, stop - start), np.int32)
    done = 0
    while done < len(read_N):
      number = bisect.bisect_right(self._ends, start + done)
      part = self.parts[number]
      begin = start + done - (self._ends[number] - len(part))
      # A file may give less than it is asked for.
      piece = part[begin : begin + len(read_N) - done]
      read_N[done : done + len(piece)] = piece
      done += len(piece)

    if self.unk_id is not None:
      read_N[read_N >= self.vocab_size] = self.unk_id
    return read_N


@dataclasses.dataclass(frozen=True)
class DocumentNumbers:
  """The document of each token, from 0; eos is of the one that it ends.

  Attributes:
    start_D: where documents start, ascending.
    length: tokens in all.
  """

  start_D: np.ndarray
  length: int

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, stretch: slice, /) -> np.ndarray:
    """Numbers of tokens `stretch.start` to `stretch.stop`, [n] int32."""
    place_N = np.arange(*stretch.indices(self.length), dtype=np.uint64)
    number_N = np.searchsorted(self.start_D, place_N, side='right') - 1
    return number_N.astype(np.int32)


def with_breaks(
  parts: Sequence[tuple[Tokens, ...]], eos_id: int
) -> tuple[Tokens, ...]:
  """Arrays of several folders, with an eos between two folders."""
  eos = np.array([eos_id], np.int32)
  joined: list[Tokens] = []
  for part in parts:
    joined += [eos, *part]
  return tuple(joined[1:])
