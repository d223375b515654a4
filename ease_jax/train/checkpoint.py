"""Checkpoints: async, atomic, and suspicious of what they read back.

The only file that imports orbax. Arrays are read as they were saved, whatever
devices saved them, on whatever devices are here, whatever types this process
prefers. A step that lies
under its final name in `checkpoints/` was written completely: orbax writes
elsewhere and renames. What happens to it later (a full disk, a bad copy) is
found by its checksum.
"""

import contextlib
import dataclasses
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from ease_jax import arrays, processes
from ease_jax.checks import ConfigError, need
from ease_jax.train import quiet
from ease_jax.train.paths import leaves
from ease_jax.train.saved import (
  Best,
  Host,
  Json,
  Restored,
  Tree,
  as_type,
  check_config,
  check_shapes,
  digest,
  folder_of,
  is_whole,
  reason,
  set_aside,
  steps_on_disk,
)


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
    facts: what the task says of its data, saved with each.
    config: the fields of the config that decide what is trained, flat; saved
      with each, and compared with what was read.
    at_once: bytes that are being written at a time, so many more than the
      state takes in memory: at least those of the largest array; None = orbax
      decides.

  Raises:
    ConfigError: `checkpoints` is a file, or damaged beyond opening.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    keep: int,
    facts: Json | None = None,
    config: Json | None = None,
    at_once: int | None = None,
  ):
    self.folder = folder_of(workdir)
    need(
      self.folder.is_dir() or not self.folder.exists(),
      f'{self.folder} is a file; move it away, or choose another --workdir',
    )
    self._notes = {'facts': facts, 'config': config}
    self._policy = _NewestAndBest(keep)
    self._manager = _manager(
      self.folder,
      at_once,
      # The caller decides when to save.
      save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
      preservation_policy=self._policy,
      # What a killed run had not finished writing.
      cleanup_tmp_directories=True,
    )
    self._open = contextlib.ExitStack()

  def __enter__(self) -> 'Checkpoints':
    self._open.enter_context(quiet.abandoned())
    self._open.push(self._close)
    return self

  def __exit__(self, *error: Any) -> None:
    self._open.__exit__(*error)

  def _close(self, kind: object, error: object, trace: object) -> None:
    del kind, trace
    try:
      with self._writing():
        self._manager.close()
    except OSError:
      if error is None:  # the first error is the one that counts
        raise

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    """One line in place of all that orbax says of a write that failed."""
    try:
      yield
    except Exception as error:
      steps = steps_on_disk(self.folder)
      newest = f'that of step {max(steps)}' if steps else 'none'
      raise OSError(
        f'a checkpoint could not be written to {self.folder}: '
        f'{reason(error)}; make room there, and the same command continues '
        f'(last good checkpoint: {newest})'
      ) from error

  def save(self, step: int, state: Tree, data: Json, host: Host) -> None:
    """Starts to save; `state` may be donated as soon as this returns.

    Args:
      step: batches done.
      state: the arrays.
      data: position in the training batches.
      host: the rest of what the run knows.

    Raises:
      OSError: this checkpoint, or the one before, cannot be written.
    """
    self._policy.best_step = host.best_step
    notes: Json = {'data': data, 'host': dataclasses.asdict(host)}
    notes |= {
      name: note for name, note in self._notes.items() if note is not None
    }
    notes['digest'] = digest(state, notes)
    saved = ocp.args.Composite(
      state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(notes)
    )
    with self._writing():
      self._manager.save(step, args=saved)

  def wait(self) -> None:
    """Returns when everything saved is on disk.

    Raises:
      OSError: it cannot be written.
    """
    with self._writing():
      self._manager.wait_until_finished()

  def restore(self, abstract: Tree) -> Restored | None:
    """The newest readable checkpoint, or None in a fresh workdir.

    Damaged newer ones are reported, and moved out of the way, since the run
    will come to their steps again.

    Args:
      abstract: tree of `jax.ShapeDtypeStruct` like the saved state.

    Raises:
      ConfigError: there are checkpoints, but none can be read, or the newest
        is of another config.
    """
    steps = _newest_first(self._manager)
    if not steps:
      return None
    restored = _first_readable(self._manager, self.folder, steps, abstract)
    check_config(self.folder, restored, self._notes['config'], newest=True)
    damaged = [step for step in steps if step > restored.step]
    if processes.is_first():
      for step in damaged:
        set_aside(self.folder, step)
    if damaged:
      processes.meet()
      self._manager.reload()
    return restored


def restore_best(
  workdir: str | os.PathLike[str],
  abstract: Tree,
  config: Json | None = None,
) -> Best:
  """Reads the state of the lowest select loss.

  Changes nothing on disk.

  Args:
    workdir: of the run.
    abstract: tree of `jax.ShapeDtypeStruct` like the saved state.
    config: the fields of the config that decide what is trained, flat; None
      compares nothing.

  Raises:
    ConfigError: there is no checkpoint, it is of another model or config, or
      none can be read.
  """
  folder = folder_of(workdir)
  if not steps_on_disk(folder):
    raise ConfigError(f'{folder} has no checkpoint; run --mode=train first')
  with _manager(folder, read_only=True) as manager:
    steps = _newest_first(manager)
    newest = _first_readable(manager, folder, steps, abstract)
    check_config(folder, newest, config, newest=True)
    best_step = newest.host.best_step
    stopped_before_evaluation = best_step == 0
    if stopped_before_evaluation or best_step == newest.step:
      return Best(newest.state, newest.step, newest.host, newest.facts)

    older = [step for step in steps if step <= newest.step]
    if best_step in older:
      older.insert(0, best_step)
    best = _first_readable(manager, folder, older, abstract)
    check_config(folder, best, config, newest=False)
    return Best(best.state, newest.step, newest.host, newest.facts)


def _manager(
  folder: pathlib.Path, at_once: int | None = None, **options: Any
) -> ocp.CheckpointManager:
  """Orbax's manager of a folder.

  Args:
    folder: holds the checkpoints.
    at_once: bytes that are being written at a time; None = it decides.
    options: what else it is told.

  Raises:
    ConfigError: one of its checkpoints has damaged metadata.
  """
  limit: Any = {}
  if at_once is not None:  # a part of a gigabyte is understood, too
    limit = {'save_concurrent_gb': at_once / 10**9}
  try:
    return ocp.CheckpointManager(
      folder,
      item_handlers={
        'state': ocp.StandardCheckpointHandler(**limit),
        'notes': ocp.JsonCheckpointHandler(),
      },
      options=ocp.CheckpointManagerOptions(**options),
    )
  except ValueError as error:
    raise ConfigError(
      f'{folder} cannot be opened ({reason(error)}); move the damaged '
      'checkpoint away, or restore the folder from a copy'
    ) from None


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
      with quiet.abandoned():
        restored = _read(manager, folder, step, abstract)
    except (ConfigError, PermissionError):  # it is not damaged
      raise
    except Exception as error:  # whatever a damaged file makes orbax raise
      problems[step] = reason(error)
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
  manager: ocp.CheckpointManager,
  folder: pathlib.Path,
  step: int,
  abstract: Tree,
) -> Restored:
  """A checkpoint, if it is of this model and not damaged.

  Raises:
    ConfigError: it is of another model.
    Exception: any, if it is damaged.
  """
  stored = leaves(manager.item_metadata(step).state.tree)
  wanted = leaves(abstract)
  check_shapes(folder / str(step), stored, wanted)

  places = leaves(arrays.places(abstract))
  as_saved = [
    jax.ShapeDtypeStruct(x.shape, stored[name].dtype, sharding=places[name])
    for name, x in wanted.items()
  ]
  tree = jax.tree.unflatten(jax.tree.structure(abstract), as_saved)
  saved: Any = manager.restore(
    step,
    args=ocp.args.Composite(
      state=ocp.args.StandardRestore(tree), notes=ocp.args.JsonRestore()
    ),
  )
  notes = dict(saved.notes)
  if not is_whole(saved.state, notes):
    raise ValueError('its checksum does not match')

  # Older runs counted more than is needed, or less.
  known = {field.name for field in dataclasses.fields(Host)}
  host = {name: notes['host'][name] for name in known & notes['host'].keys()}
  return Restored(
    step=step,
    state=jax.tree.map(as_type, saved.state, abstract),
    data=notes['data'],
    host=Host(**host),
    facts=notes.get('facts'),
    config=notes.get('config'),
  )
