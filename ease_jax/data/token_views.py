"""Tokens in several arrays, and documents, read by stretches."""

import bisect
import dataclasses
import functools
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class TokenFiles:
  """Tokens in arrays end to end, mapped files or not; read by stretches.

  Attributes:
    parts: arrays of whole numbers.
    vocab_size: V; numbers from there on are of unknown characters.
    unk_id: what those are read as; None = they are read as they are.
  """

  parts: tuple[np.ndarray, ...]
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
    number = bisect.bisect_right(self._ends, start)
    done = 0
    while done < len(read_N):
      part = self.parts[number]
      begin = start + done - (self._ends[number] - len(part))
      piece = part[begin : begin + len(read_N) - done]
      read_N[done : done + len(piece)] = piece
      done += len(piece)
      number += 1

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
  parts: Sequence[tuple[np.ndarray, ...]], eos_id: int
) -> tuple[np.ndarray, ...]:
  """Arrays of several folders, with an eos between two folders."""
  eos = np.array([eos_id], np.int32)
  joined: list[np.ndarray] = []
  for part in parts:
    joined += [eos, *part]
  return tuple(joined[1:])
