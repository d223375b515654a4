"""Checkpoints: async, atomic, and suspicious of what they read back.

The only file that imports orbax. A step that lies under its final name in
`checkpoints/` was written completely: orbax writes elsewhere and renames.
What happens to it later (a full disk, a bad copy) is found by its checksum.
"""

import dataclasses
import json
import logging
import os
import pathlib
import sys
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from ease_jax.config import ConfigError

FOLDER = 'checkpoints'
DAMAGED = 'damaged'


@dataclasses.dataclass
class Host:
  """What a run knows beside the arrays and the data position.

  Attributes:
    best_loss: lowest select loss so far in nats, None before the first.
    best_step: updates done when it was measured.
    bad_evals: evaluations since then.
    evaluated_at: updates done at the last evaluation.
    tokens: training tokens seen.
    wall_s: seconds spent training, restarts left out.
  """

  best_loss: float | None = None
  best_step: int = 0
  bad_evals: int = 0
  evaluated_at: int = 0
  tokens: int = 0
  wall_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class Restored:
  """A checkpoint that was read."""

  step: int
  state: Any
  data: Any
  host: Host


@dataclasses.dataclass(frozen=True)
class Best:
  """The state of the lowest select loss, and how far the run has come."""

  state: Any
  newest_step: int
  host: Host  # of the newest checkpoint


class _NewestAndBest:
  """Orbax policy: keeps the newest few checkpoints and the best one."""

  def __init__(self, keep: int):
    self.keep, self.best_step = keep, 0

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    del context
    first_kept = len(checkpoints) - self.keep
    return [
      i >= first_kept or checkpoint.step == self.best_step
      for i, checkpoint in enumerate(checkpoints)
    ]


class Checkpoints:
  """The checkpoints of one run; a context manager that ends with a flush."""

  def __init__(self, workdir: str | os.PathLike[str], keep: int):
    self.folder = _folder(workdir)
    self._policy = _NewestAndBest(keep)
    self._manager = ocp.CheckpointManager(
      self.folder,
      options=ocp.CheckpointManagerOptions(
        # The caller decides when to save.
        save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
        preservation_policy=self._policy,
        # What a killed run had not finished writing.
        cleanup_tmp_directories=True,
      ),
    )

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *error: Any) -> None:
    self._manager.close()

  def save(self, step: int, state: Any, data: Any, host: Host) -> None:
    """Starts to save; `state` may be donated as soon as this returns."""
    self._policy.best_step = host.best_step
    notes = {'data': data, 'host': dataclasses.asdict(host)}
    notes['checksum'] = _checksum(state, notes)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(notes)
      ),
    )

  def wait(self) -> None:
    """Returns when everything saved is on disk."""
    self._manager.wait_until_finished()

  def restore(self, abstract: Any) -> Restored | None:
    """The newest readable checkpoint, or None in a fresh workdir.

    Damaged newer ones are reported, and moved out of the way, since the run
    will come to their steps again.

    Args:
      abstract: tree of `jax.ShapeDtypeStruct` like the saved state.

    Raises:
      ConfigError: there are checkpoints, but none can be read.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    if not steps:
      return None
    found = _first_readable(
      self.folder, steps, lambda s: _read(self._manager, s, abstract)
    )
    damaged = [step for step in steps if step > found.step]
    for step in damaged:
      _set_aside(self.folder, step)
    if damaged:
      self._manager.reload()
    return found


def restore_best(workdir: str | os.PathLike[str], abstract: Any) -> Best:
  """Reads the state of the lowest select loss.

  Changes nothing on disk.

  Raises:
    ConfigError: there is no checkpoint, or none can be read.
  """
  folder = _folder(workdir)
  if not _has_steps(folder):
    raise ConfigError(f'{folder} has no checkpoint; run --mode=train first')
  options = ocp.CheckpointManagerOptions(read_only=True)
  with ocp.CheckpointManager(folder, options=options) as manager:
    steps = sorted(manager.all_steps(), reverse=True)
    newest = _first_readable(
      folder, steps, lambda s: _read(manager, s, abstract)
    )
    best = newest.host.best_step
    if best in (0, newest.step):  # 0: stopped before the first evaluation
      return Best(newest.state, newest.step, newest.host)
    order = [s for s in (best, *steps) if s in steps and s <= newest.step]
    chosen = _first_readable(
      folder, order, lambda s: _read(manager, s, abstract)
    )
    return Best(chosen.state, newest.step, newest.host)


def _folder(workdir: str | os.PathLike[str]) -> pathlib.Path:
  # Orbax takes a relative path, and fails much later, in the background.
  return pathlib.Path(workdir).absolute() / FOLDER


def _has_steps(folder: pathlib.Path) -> bool:
  return folder.is_dir() and any(p.name.isdigit() for p in folder.iterdir())


def _first_readable(
  folder: pathlib.Path,
  steps: Sequence[int],
  read: Callable[[int], Restored],
) -> Restored:
  problems = []
  for step in steps:
    try:
      found = read(step)
    except Exception as error:  # whatever a damaged file makes orbax raise
      _silence_abandoned_reads()
      problems.append((step, _one_line(error)))
      continue
    for bad, why in problems:
      print(
        f'ease_jax: warning: checkpoint {folder / str(bad)} is unreadable '
        f'({why}); using that of step {step}',
        file=sys.stderr,
      )
    return found
  raise ConfigError(
    f'no checkpoint in {folder} can be read (step {problems[0][0]}: '
    f'{problems[0][1]}); restore the folder from a copy, or delete it to '
    'start again'
  )


def _read(manager: ocp.CheckpointManager, step: int, abstract: Any) -> Restored:
  out: Any = manager.restore(
    step,
    args=ocp.args.Composite(
      state=ocp.args.StandardRestore(abstract), notes=ocp.args.JsonRestore()
    ),
  )
  notes = dict(out.notes)
  if notes.pop('checksum') != _checksum(out.state, notes):
    raise ValueError('its checksum does not match')
  return Restored(step, out.state, notes['data'], Host(**notes['host']))


def _checksum(state: Any, notes: dict[str, Any]) -> int:
  """CRC-32 of everything: orbax does not notice every flipped bit."""
  total = zlib.crc32(json.dumps(notes, sort_keys=True).encode())
  for leaf in jax.tree.leaves(state):
    total = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).data, total)
  return total


def _set_aside(folder: pathlib.Path, step: int) -> None:
  """Renames to damaged/STEP, or damaged/STEP.1 where that exists, ..."""
  (folder.parent / DAMAGED).mkdir(exist_ok=True)
  target, number = folder.parent / DAMAGED / str(step), 0
  while target.exists():
    number += 1
    target = target.with_name(f'{step}.{number}')
  (folder / str(step)).rename(target)


def _one_line(error: Exception) -> str:
  text = ' '.join(str(error).split()) or type(error).__name__
  return text if len(text) <= 120 else text[:117] + '...'


def _silence_abandoned_reads() -> None:
  """Drops what the rest of a failed read says, now and later.

  One array that cannot be read makes orbax leave the reads of the others
  behind; each of them would print a page when it ends or is collected.
  """
  if isinstance(sys.unraisablehook, _Unraisable):
    return
  sys.unraisablehook = _Unraisable(sys.unraisablehook)
  logging.getLogger('asyncio').addFilter(
    lambda record: 'never retrieved' not in record.getMessage()
  )


class _Unraisable:
  """An unraisablehook that knows abandoned reads."""

  def __init__(self, rest: Callable[[Any], Any]):
    self._rest = rest

  def __call__(self, event: Any) -> None:
    text = f'{event.exc_value} {event.object}'
    if 'Event loop is closed' in text or 'reading array' in text:
      return
    self._rest(event)
