"""Checkpoints: async, atomic, and suspicious of what they read back.

The only file that imports orbax. A step that lies under its final name in
`checkpoints/` was written completely: orbax writes elsewhere and renames.
What happens to it later (a full disk, a bad copy) is found by its checksum.
"""

import dataclasses
import json
import os
import pathlib
import sys
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from ease_jax.checks import ConfigError
from ease_jax.train import quiet

FOLDER = 'checkpoints'
DAMAGED = 'damaged'

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
  """

  best_loss: float | None = None
  best_step: int = 0
  bad_evals: int = 0
  tokens: int = 0
  wall_s: float = 0.0


@dataclasses.dataclass(frozen=True)
class Restored:
  """A checkpoint that was read.

  Attributes:
    step: batches done when it was saved.
    state: the arrays, as they were saved.
    data: position in the training batches.
    host: the rest of what the run knew.
  """

  step: int
  state: Tree
  data: Json
  host: Host


@dataclasses.dataclass(frozen=True)
class Best:
  """The state of the lowest select loss, and how far the run has come.

  Attributes:
    state: the arrays of the best checkpoint.
    newest_step: batches done when the newest checkpoint was saved.
    host: what the run knew at the newest checkpoint.
  """

  state: Tree
  newest_step: int
  host: Host


class _NewestAndBest:
  """Orbax policy: keeps the newest few checkpoints and the best one."""

  def __init__(self, keep: int):
    self.keep = keep
    self.best_step = 0

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: object
  ) -> list[bool]:
    del context
    first_kept = len(checkpoints) - self.keep
    return [
      i >= first_kept or checkpoint.step == self.best_step
      for i, checkpoint in enumerate(checkpoints)
    ]


class Checkpoints:
  """The checkpoints of one run; a context manager that ends with a flush.

  Args:
    workdir: of the run; they lie in its folder `checkpoints`.
    keep: how many of the newest ones stay, beside the best one.
  """

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

  def __exit__(self, *error: object) -> None:
    self._manager.close()

  def save(self, step: int, state: Tree, data: Json, host: Host) -> None:
    """Starts to save; `state` may be donated as soon as this returns.

    Args:
      step: batches done.
      state: the arrays.
      data: position in the training batches.
      host: the rest of what the run knows.
    """
    self._policy.best_step = host.best_step
    notes: Json = {'data': data, 'host': dataclasses.asdict(host)}
    notes['checksum'] = _checksum(state, notes)
    saved = ocp.args.Composite(
      state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(notes)
    )
    self._manager.save(step, args=saved)

  def wait(self) -> None:
    """Returns when everything saved is on disk."""
    self._manager.wait_until_finished()

  def restore(self, abstract: Tree) -> Restored | None:
    """The newest readable checkpoint, or None in a fresh workdir.

    Damaged newer ones are reported, and moved out of the way, since the run
    will come to their steps again.

    Args:
      abstract: tree of `jax.ShapeDtypeStruct` like the saved state.

    Raises:
      ConfigError: there are checkpoints, but none can be read.
    """
    steps = _newest_first(self._manager)
    if not steps:
      return None
    restored = _first_readable(self._manager, self.folder, steps, abstract)
    damaged = [step for step in steps if step > restored.step]
    for step in damaged:
      _set_aside(self.folder, step)
    if damaged:
      self._manager.reload()
    return restored


def restore_best(workdir: str | os.PathLike[str], abstract: Tree) -> Best:
  """Reads the state of the lowest select loss.

  Changes nothing on disk.

  Args:
    workdir: of the run.
    abstract: tree of `jax.ShapeDtypeStruct` like the saved state.

  Raises:
    ConfigError: there is no checkpoint, or none can be read.
  """
  folder = _folder(workdir)
  if not _has_steps(folder):
    raise ConfigError(f'{folder} has no checkpoint; run --mode=train first')
  options = ocp.CheckpointManagerOptions(read_only=True)
  with ocp.CheckpointManager(folder, options=options) as manager:
    steps = _newest_first(manager)
    newest = _first_readable(manager, folder, steps, abstract)
    best_step = newest.host.best_step
    stopped_before_evaluation = best_step == 0
    if stopped_before_evaluation or best_step == newest.step:
      return Best(newest.state, newest.step, newest.host)

    older = [step for step in steps if step <= newest.step]
    if best_step in older:
      older.insert(0, best_step)
    best = _first_readable(manager, folder, older, abstract)
    return Best(best.state, newest.step, newest.host)


def _folder(workdir: str | os.PathLike[str]) -> pathlib.Path:
  # Orbax takes a relative path, and fails much later, in the background.
  return pathlib.Path(workdir).absolute() / FOLDER


def _has_steps(folder: pathlib.Path) -> bool:
  return folder.is_dir() and any(p.name.isdigit() for p in folder.iterdir())


def _newest_first(manager: ocp.CheckpointManager) -> list[int]:
  return sorted(manager.all_steps(), reverse=True)


def _first_readable(
  manager: ocp.CheckpointManager,
  folder: pathlib.Path,
  steps: Sequence[int],
  abstract: Tree,
) -> Restored:
  """The first of some steps that can be read; warns of those before it."""
  problems: dict[int, str] = {}
  for step in steps:
    try:
      with quiet.abandoned_reads():
        restored = _read(manager, step, abstract)
    except Exception as error:  # whatever a damaged file makes orbax raise
      problems[step] = _one_line(error)
      continue
    for bad, problem in problems.items():
      print(
        f'ease_jax: warning: checkpoint {folder / str(bad)} is unreadable '
        f'({problem}); using that of step {step}',
        file=sys.stderr,
      )
    return restored
  raise ConfigError(
    f'no checkpoint in {folder} can be read (step {steps[0]}: '
    f'{problems[steps[0]]}); restore the folder from a copy, or delete it to '
    'start again'
  )


def _read(
  manager: ocp.CheckpointManager, step: int, abstract: Tree
) -> Restored:
  wanted = ocp.args.Composite(
    state=ocp.args.StandardRestore(abstract), notes=ocp.args.JsonRestore()
  )
  saved: Any = manager.restore(step, args=wanted)
  notes = dict(saved.notes)
  checksum = notes.pop('checksum')
  if checksum != _checksum(saved.state, notes):
    raise ValueError('its checksum does not match')
  # Older runs counted more than is needed.
  known = {field.name for field in dataclasses.fields(Host)}
  host = {name: notes['host'][name] for name in known}
  return Restored(step, saved.state, notes['data'], Host(**host))


def _checksum(state: Tree, notes: Json) -> int:
  """CRC-32 of everything: orbax does not notice every flipped bit."""
  text = json.dumps(notes, sort_keys=True)
  total = zlib.crc32(text.encode())
  for leaf in jax.tree.leaves(state):
    flat = np.ascontiguousarray(leaf).reshape(-1)
    total = zlib.crc32(flat.data, total)
  return total


def _set_aside(folder: pathlib.Path, step: int) -> None:
  """Renames to damaged/STEP, or to damaged/STEP.1 where that exists."""
  damaged = folder.parent / DAMAGED
  damaged.mkdir(exist_ok=True)
  target = damaged / str(step)
  number = 0
  while target.exists():
    number += 1
    target = damaged / f'{step}.{number}'
  (folder / str(step)).rename(target)


def _one_line(error: Exception) -> str:
  text = ' '.join(str(error).split()) or type(error).__name__
  return text if len(text) <= 120 else text[:117] + '...'
