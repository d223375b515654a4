"""What a checkpoint holds, where it lies, and whether it fits; no orbax."""

import dataclasses
import json
import math
import os
import pathlib
import re
import sys
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ease_jax import arrays, fields, processes
from ease_jax.checks import need
from ease_jax.fields import STEPS

FOLDER = 'checkpoints'
DAMAGED = 'damaged'
SUMS = 2**64  # as many digests there are
AT_ONCE = 1 << 20  # numbers of an array that are added up

Tree = Any  # any tree of arrays
Json = dict[str, Any]


@dataclasses.dataclass
class Host:
  """What a run knows beside the arrays and the data position.

  Attributes:
    best_loss: lowest select loss so far in nats, None before the first.
    best_step: updates done when it was measured.
    bad_evals: evaluations since then.
    tokens: training tokens seen.
    wall_s: seconds spent training, restarts left out.
    seconds: of these, by what they were spent on (`running.PARTS`); an older
      version did not count them.
    counted_flops: FLOPs of the updates in them.
    possible_flops: what the devices would have made at their published peak
      in the seconds of updates and waits for data; None where that of some is
      not known.
    devices: that the run had last.
    ends: steps that the run was to have: at first, and after each extension.
    teacher: `TeacherFacts` of the run that teaches; None where none does.
  """

  best_loss: float | None = None
  best_step: int = 0
  bad_evals: int = 0
  tokens: int = 0
  wall_s: float = 0.0
  seconds: dict[str, float] = dataclasses.field(default_factory=dict)
  counted_flops: float = 0.0
  possible_flops: float | None = 0.0
  devices: str = ''
  ends: list[int] = dataclasses.field(default_factory=list)
  teacher: Json | None = None


@dataclasses.dataclass(frozen=True)
class Restored:
  """A checkpoint that was read.

  Attributes:
    step: batches done when it was saved.
    state: the arrays, as they were saved.
    data: position in the training batches.
    host: the rest of what the run knew.
    facts: what the task said of its data; None in older checkpoints.
    config: the fields that made it, flat; None in older checkpoints.
  """

  step: int
  state: Tree
  data: Json
  host: Host
  facts: Json | None
  config: Json | None


@dataclasses.dataclass(frozen=True)
class Best:
  """The state of the lowest select loss, and how far the run has come.

  Attributes:
    state: the arrays of the best checkpoint.
    newest_step: batches done when the newest checkpoint was saved.
    host: what the run knew at the newest checkpoint.
    facts: what the task said of its data; None in older checkpoints.
  """

  state: Tree
  newest_step: int
  host: Host
  facts: Json | None


def has_steps(workdir: str | os.PathLike[str]) -> bool:
  """Whether a run has saved anything yet."""
  return bool(steps_on_disk(folder_of(workdir)))


def newest_step(workdir: str | os.PathLike[str]) -> int:
  """Batches done when the newest checkpoint was saved; 0 without any."""
  return max(steps_on_disk(folder_of(workdir)), default=0)


def check_facts(
  workdir: str | os.PathLike[str], there: Json | None, here: Json
) -> None:
  """Refuses data that a run was not trained on.

  Args:
    workdir: of the run.
    there: what the task said when the run was trained.
    here: what it says now.

  Raises:
    ConfigError: they differ.
  """
  if there is None:
    print(
      f'ease_jax: warning: {workdir} is of an older version, which did not '
      'note its data; whether they have changed cannot be known',
      file=sys.stderr,
    )
    return

  differing = [
    f'{name}={_short(value)} there, {_short(here.get(name))} here'
    for name, value in there.items()
    if here.get(name) != value
  ]
  need(
    not differing,
    f'the data have changed since {workdir} was trained: '
    f'{"; ".join(differing)}; bring them back, or choose another --workdir '
    '(--mode=evaluate --text=FILE evaluates another text)',
  )


def check_teacher(
  workdir: str | os.PathLike[str], there: Json | None, here: Json | None
) -> None:
  """Refuses another teacher than the one that a run had.

  Args:
    workdir: of the run.
    there: `TeacherFacts` when the run was trained; None = it had none.
    here: the same now.

  Raises:
    ConfigError: their parameters differ.
  """
  checksums = [(facts or {}).get('checksum') for facts in (there, here)]
  need(
    checksums[0] == checksums[1],
    f'the teacher has changed since {workdir} was trained: parameters '
    f'{checksums[0]} there, {checksums[1]} here; bring them back, or choose '
    'another --workdir',
  )


def check_config(
  folder: pathlib.Path,
  restored: Restored,
  here: Json | None,
  *,
  newest: bool,
) -> None:
  """Refuses a checkpoint that another run has made.

  A run that had done all its steps may have been given more since then.

  Args:
    folder: the checkpoints.
    restored: one of them.
    here: the fields of the config that decide what is trained, flat; None
      compares nothing.
    newest: whether it is the newest; of earlier ones the run may have been
      shorter.

  Raises:
    ConfigError: names every field that differs.
  """
  if here is None or restored.config is None:  # of an older version
    return
  there = dict(restored.config)
  end = there.get(STEPS)
  was_over = end == restored.step or not newest
  if isinstance(end, int) and was_over and end < here[STEPS]:
    there[STEPS] = here[STEPS]

  differing = fields.differing(there, here)
  need(
    not differing,
    f'checkpoint {folder / str(restored.step)} was made by another config: '
    f'{"; ".join(differing)}; put the checkpoints of this run back, or choose '
    'another --workdir',
  )


def _short(value: object) -> str:
  """The beginning of a hash; other values are not as long."""
  return str(value)[:12]


def folder_of(workdir: str | os.PathLike[str]) -> pathlib.Path:
  # Orbax takes a relative path, and fails much later, in the background.
  return pathlib.Path(workdir).absolute() / FOLDER


def steps_on_disk(folder: pathlib.Path) -> list[int]:
  """The steps of the checkpoints in a folder, in no order.

  Raises:
    ConfigError: one was renamed to what only looks like a step.
  """
  if not folder.is_dir():
    return []
  steps = []
  for path in folder.iterdir():
    if not path.name.isdecimal() or not path.is_dir():
      continue
    step = int(path.name)
    need(path.name == str(step), f'{path} is of no step; call it {step} again')
    steps.append(step)
  return steps


def check_shapes(
  place: pathlib.Path, stored: dict[str, Any], wanted: dict[str, Any]
) -> None:
  """Raises ConfigError if a checkpoint is of another model."""
  for name in wanted | stored:
    there = stored[name].shape if name in stored else 'missing'
    here = wanted[name].shape if name in wanted else 'missing'
    need(
      there == here,
      f'checkpoint {place} is of another model: {name} is {there} there, '
      f'{here} by config and tokenizer; use those that the run was made with',
    )


def as_type(x: jax.Array, abstract: jax.ShapeDtypeStruct) -> jax.Array:
  return x if x.dtype == abstract.dtype else x.astype(abstract.dtype)


def checksum(state: Tree, notes: Json) -> int:
  """CRC-32 of everything, as checkpoints of older versions have it."""
  total = _crc_of(notes)
  for leaf in jax.tree.leaves(state):
    flat = np.ascontiguousarray(arrays.get(leaf)).reshape(-1)
    total = zlib.crc32(flat.data, total)
  return total


def _crc_of(notes: Json) -> int:
  text = json.dumps(notes, sort_keys=True)
  return zlib.crc32(text.encode())


def digest(state: Tree, notes: Json) -> int:
  """64 bits of everything: orbax does not notice every flipped bit.

  Each number counts, as bits, times an odd one that is its place's own, so that
  none can change alone and no two can change places. A sum is the same on
  whatever devices the arrays lie: each process adds up what it has.
  """
  return (_crc_of(notes) + processes.total(_own_sum(state))) % SUMS


def _own_sum(state: Tree) -> int:
  """Of the numbers that this process is the first to have."""
  total = 0
  first = 0
  for leaf in jax.tree.leaves(state):
    strides = [math.prod(leaf.shape[i + 1 :]) for i in range(leaf.ndim)]
    for start, part in arrays.own_parts(leaf):
      place = first + int(np.dot(start, strides))
      total += _sum_of(np.atleast_1d(part), strides or [1], place)
    first += leaf.size
  return total % SUMS


def _sum_of(part: np.ndarray, strides: Sequence[int], first: int) -> int:
  """Bits of numbers times their places.

  Args:
    part: of an array, of one dimension at least.
    strides: from a number of the whole array to the next, in each dimension.
    first: place of the part's first number.
  """
  inside = np.zeros((1,) * (part.ndim - 1), np.uint64)
  for axis, size in enumerate(part.shape[1:]):
    along = np.arange(size, dtype=np.uint64) * np.uint64(strides[axis + 1])
    inside = inside + along.reshape((-1,) + (1,) * (part.ndim - axis - 2))

  total = 0
  rows = max(1, len(part) * AT_ONCE // max(part.size, 1))
  for row in range(0, len(part), rows):
    some = np.ascontiguousarray(part[row : row + rows])
    bits = some.view(f'u{some.dtype.itemsize}')
    row_N = np.arange(row, row + len(some), dtype=np.uint64)
    place = (first + row_N * strides[0]).reshape((-1,) + (1,) * inside.ndim)
    # Whole numbers of 64 bits run over, as they should.
    total += int((bits * (2 * (place + inside) + 1)).sum(dtype=np.uint64))
  return total


def is_whole(state: Tree, notes: Json) -> bool:
  """Whether arrays and notes are those that were saved.

  Args:
    state: the arrays.
    notes: the rest; what was noted of all is taken out of them.
  """
  if 'checksum' in notes:  # of an older version
    return notes.pop('checksum') == checksum(state, notes)
  return notes.pop('digest') == digest(state, notes)


def set_aside(folder: pathlib.Path, step: int) -> None:
  """Renames to damaged/STEP, or to damaged/STEP.1 where that exists."""
  damaged = folder.parent / DAMAGED
  damaged.mkdir(exist_ok=True)
  target = damaged / str(step)
  number = 0
  while target.exists():
    number += 1
    target = damaged / f'{step}.{number}'
  (folder / str(step)).rename(target)


def reason(error: Exception) -> str:
  """What went wrong, in a few words."""
  text = ' '.join(str(error).split()) or type(error).__name__
  # What the system said stands somewhere in a long story of files, whose parts
  # have no fixed order; its number is enough.
  system = re.search(r"os_error_code='(\d+)'", text)
  if system:
    return os.strerror(int(system[1]))
  return text if len(text) <= 120 else text[:117] + '...'
