"""What a run says while it trains: metrics.jsonl, a line, TensorBoard."""

import contextlib
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol, TextIO

from ease_jax import processes
from ease_jax.checks import ConfigError, need
from ease_jax.files import write_atomic
from ease_jax.progress import duration

METRICS = 'metrics.jsonl'
QUIET_S = 30.0  # a file hears of the training at least so often

Event = dict[str, Any]  # step, time, split, loss, and more numbers


def read_events(path: pathlib.Path) -> list[Event]:
  """The events of a `metrics.jsonl`; damaged lines are counted on stderr.

  The last line may be cut off: its run was killed.

  Raises:
    ConfigError: there is no such file.
  """
  need(path.is_file(), f'{path} is missing; make it with --mode=train')
  return [event for _, event in _read_lines(path)]


def keep_until(path: pathlib.Path, step: int) -> None:
  """Drops events after `step`, which a resumed run will write again."""
  if not path.exists():
    return
  lines = [line for line, event in _read_lines(path) if event['step'] <= step]
  write_atomic(path, b''.join(line + b'\n' for line in lines))


def _read_lines(path: pathlib.Path) -> list[tuple[bytes, Event]]:
  """Lines that are events, and these."""
  lines = path.read_bytes().splitlines()
  found = [(line, _event(line)) for line in lines]
  whole = [(line, event) for line, event in found if event is not None]
  cut_off = bool(found) and found[-1][1] is None
  damaged = len(found) - len(whole) - cut_off
  if damaged:
    print(
      f'ease_jax: warning: {path} has {damaged} damaged lines, which are left '
      'out',
      file=sys.stderr,
    )
  return whole


def _event(line: bytes) -> Event | None:
  """What a line says; None where it is no event."""
  try:
    event = json.loads(line)
    whole = isinstance(event['step'], int) and isinstance(event['split'], str)
    return event if whole and math.isfinite(event['loss']) else None
  except (ValueError, TypeError, KeyError):
    return None


class Board(Protocol):
  """What is used of tensorboardX's SummaryWriter."""

  def add_scalar(self, tag: str, value: float, step: int, /) -> object: ...

  def close(self) -> object: ...


class Writers:
  """Writes events; a context manager.

  Args:
    workdir: of the run; gets `metrics.jsonl` and perhaps `tensorboard/`.
    total_steps: updates of the whole run, for the time left.
    resume_step: updates done before; events after it are dropped.
    tensorboard: also write TensorBoard events.
    stream: where the progress line goes; None = stderr. Where it is no
      terminal, only evaluations are printed, and a line after long silences.

  Raises:
    ConfigError: tensorboardX is wanted and not installed.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    total_steps: int,
    resume_step: int,
    *,
    tensorboard: bool,
    stream: TextIO | None = None,
  ):
    self.folder = pathlib.Path(workdir)
    self._path = self.folder / METRICS
    self._board = _open_board(workdir, resume_step) if tensorboard else None
    keep_until(self._path, resume_step)
    # Line by line, so that a killed run leaves all but the last.
    self._file = self._path.open('a', encoding='utf-8', buffering=1)
    self._stream = stream or sys.stderr
    self._is_terminal = self._stream.isatty()
    self._unfinished = False  # the cursor stands at the end of a line
    self._total_steps = total_steps
    self._first_step = resume_step
    self._start_s = time.monotonic()
    self._spoken_s = self._start_s

  def __enter__(self) -> 'Writers':
    return self

  def __exit__(self, *error: object) -> None:
    if self._unfinished:
      self._stream.write('\n')
    if self._board:
      self._board.close()
    # What a full disk did not take has been raised by `write` already.
    with contextlib.suppress(OSError):
      self._file.close()

  def say(self, text: str) -> None:
    """A line of its own for people."""
    self._stream.write(text + '\n')
    self._stream.flush()

  def write(
    self, step: int, wall_s: float, split: str, values: Mapping[str, float]
  ) -> None:
    """One event: a line of `metrics.jsonl`, and progress.

    Args:
      step: updates done.
      wall_s: seconds of training so far.
      split: train or select.
      values: finite numbers.

    Raises:
      OSError: the disk is full; names the file.
    """
    # A loss that is infinite stops a run elsewhere; JSON has no word for it.
    values = {
      name: value for name, value in values.items() if math.isfinite(value)
    }
    event = {'step': step, 'time': round(wall_s, 3), 'split': split, **values}
    try:
      self._file.write(json.dumps(event, allow_nan=False) + '\n')
    except OSError as error:
      raise OSError(error.errno, error.strerror, str(self._path)) from error
    if self._board:
      for name, value in values.items():
        self._board.add_scalar(f'{split}/{name}', value, step)
    if split == 'train':
      self._progress(step, values)
    else:
      self._evaluation(step, split, values)

  def _progress(self, step: int, values: Mapping[str, float]) -> None:
    now_s = time.monotonic()
    if not self._is_terminal and now_s - self._spoken_s < QUIET_S:
      return
    self._spoken_s = now_s
    pace = (now_s - self._start_s) / max(step - self._first_step, 1)
    left = duration(pace * (self._total_steps - step))
    line = (
      f'step {step}/{self._total_steps}  loss {values["loss"]:.4f}  '
      f'{values["tokens_per_s"]:,.0f} tokens/s  {_effort(values)}  {left} left'
    )
    self._unfinished = self._is_terminal
    self._stream.write(f'\r\x1b[K{line}' if self._is_terminal else f'{line}\n')
    self._stream.flush()

  def _evaluation(
    self, step: int, split: str, values: Mapping[str, float]
  ) -> None:
    self._unfinished = False
    self._spoken_s = time.monotonic()
    clear = '\r\x1b[K' if self._is_terminal else ''
    self._stream.write(
      f'{clear}step {step}/{self._total_steps}  '
      f'{split} loss {values["loss"]:.4f}  best {values["best_loss"]:.4f}\n'
    )
    self._stream.flush()


def _effort(values: Mapping[str, float]) -> str:
  """How much of the devices is used; FLOP/s where that is not known."""
  if 'mfu' in values:
    return f'MFU {values["mfu"]:.0%}'
  return f'{values["flops_per_s"] / 1e9:,.3g} GFLOP/s'


class NoWriters(Writers):
  """Of a process that is not the first: another one writes and speaks.

  Args:
    workdir: of the run, where the trace of a profile goes.
  """

  def __init__(self, workdir: str | os.PathLike[str]):
    self.folder = pathlib.Path(workdir)

  def __exit__(self, *error: object) -> None:
    del error

  def say(self, text: str) -> None:
    del text

  def write(
    self, step: int, wall_s: float, split: str, values: Mapping[str, float]
  ) -> None:
    del step, wall_s, split, values


def writing(
  workdir: str | os.PathLike[str],
  total_steps: int,
  resume_step: int,
  *,
  tensorboard: bool,
) -> Writers:
  """What writes in this process; the arguments are those of `Writers`."""
  if not processes.is_first():
    return NoWriters(workdir)
  return Writers(workdir, total_steps, resume_step, tensorboard=tensorboard)


def _open_board(workdir: str | os.PathLike[str], resume_step: int) -> Board:
  try:
    import tensorboardX  # pyright: ignore[reportMissingImports]
  except ImportError:
    raise ConfigError(
      'train.tensorboard=True needs tensorboardX; install it with pip '
      'install "ease_jax[tensorboard]" or set train.tensorboard=False'
    ) from None
  # TensorBoard hides what an interrupted run wrote after this step.
  return tensorboardX.SummaryWriter(
    os.path.join(workdir, 'tensorboard'), purge_step=resume_step + 1
  )
