"""A profiler trace of some updates, and what of it can be said in a few lines.

The trace knows operations of programs, and the programs know which names of
the code an operation was made in (`jax.named_scope`, Flax's modules).
"""

import collections
import contextlib
import os
import pathlib
import re
from collections.abc import Iterator, Mapping

import jax

from ease_jax import processes

FOLDER = 'profile'
STEPS = range(10, 15)  # that are traced, from 0 at the start of the process
# Names of which a table speaks; where they are nested the innermost counts.
SCOPES = (
  'embedding',
  'attention',
  'mlp',
  'router',
  'readout',
  'loss',
  'gates',
  'optimizer',
)
OTHER = 'elsewhere'
_SCOPE = re.compile(rf'\b({"|".join(SCOPES)})\b')
_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.\-]+) = ')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
# Their time is that of the operations within, which are in the trace, too.
_AROUND = re.compile(r'[ )}](while|conditional|call)\(')


def traced(
  folder: str | os.PathLike[str],
) -> contextlib.AbstractContextManager[None]:
  """Writes a trace of what runs within to a folder; the JAX profiler's format.

  It leaves out the frames of Python: gathering those of threads that are
  ending is the likely cause of a process that crashed here.
  """
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0
  return jax.profiler.trace(folder, profiler_options=options)


class Profile:
  """The trace of a run, if one is asked for; a context manager.

  Args:
    wanted: whether it is.
    first_step: of this process.
    folder: of the run; the trace goes to `profile/` in it.
  """

  def __init__(self, wanted: bool, first_step: int, folder: pathlib.Path):
    self._wanted = wanted
    self._first_step = first_step
    self._folder = folder / FOLDER
    self._open = contextlib.ExitStack()
    self._is_open = False

  def __enter__(self) -> 'Profile':
    return self

  def __exit__(self, *error: object) -> None:
    self._open.close()

  def before(self, step: int) -> None:
    """Starts the trace if this is its first step."""
    if self._wanted and step - self._first_step == STEPS.start:
      self._open.enter_context(traced(self._folder))
      self._is_open = True

  def ends_after(self, step: int) -> bool:
    """Whether so many steps done are all that is traced."""
    return self._is_open and step - self._first_step == STEPS.stop

  def end(self) -> Iterator[str]:
    """Writes the trace, once all of it was computed; what there is to say."""
    if not self._wanted:
      return
    if not self._is_open:
      yield f'no trace: fewer than {STEPS.start + 1} steps were left'
    else:
      self._open.close()
      yield f'Trace: {self._folder.resolve()}'
      if processes.is_first():
        yield from described(shares(self._folder))
    self._wanted = False
    self._is_open = False


def scope_of(op_name: str) -> str:
  """The innermost of SCOPES in an operation's name, or OTHER.

  Args:
    op_name: `jit(train_step)/transpose(jvp(layer_0))/attention/dot_general`.
  """
  found = _SCOPE.findall(op_name)
  return found[-1] if found else OTHER


def names_in(program: str) -> dict[str, str]:
  """Instruction -> name in the code, of a program's text; '' = it has none.

  Those that only hold others are left out.
  """
  names = {}
  for line in program.splitlines():
    found = _INSTRUCTION.match(line)
    if found is None or _AROUND.search(line.partition('metadata=')[0]):
      continue
    name = _OP_NAME.search(line)
    names[found[1]] = name[1] if name else ''
  return names


def shares(folder: pathlib.Path) -> dict[str, float]:
  """Share of the time of all operations, by scope, of the newest trace.

  It is asked in the process that has made the trace, which has the programs.
  Operations that run side by side count one by one. Of two programs of one
  name, an operation that both have is taken to be of the newer one.

  Args:
    folder: that `traced` was given.
  """
  client = jax.devices()[0].client
  modules = [
    module
    for program in client.live_executables()
    for module in program.hlo_modules()
  ]
  traces = sorted(
    folder.rglob('*.xplane.pb'), key=lambda path: path.stat().st_mtime
  )
  seconds = _seconds(traces[-1]) if traces else {}

  total: dict[str, float] = collections.defaultdict(float)
  named: dict[str, dict[str, str]] = {}
  for module in modules:
    if any(name == module.name for name, _ in seconds):
      newer = named.get(module.name, {})
      named[module.name] = names_in(module.to_string()) | newer
  for (program, operation), spent in seconds.items():
    name = named.get(program, {}).get(operation)
    if name is not None:
      total[scope_of(name)] += spent
  every = sum(total.values())
  most_first = sorted(total, key=lambda name: -total[name])
  return {name: total[name] / every for name in most_first}


def _seconds(path: pathlib.Path) -> dict[tuple[str, str], float]:
  """(program, operation) of a trace -> seconds, of all devices together."""
  trace = jax.profiler.ProfileData.from_file(str(path))
  seconds: dict[tuple[str, str], float] = collections.defaultdict(float)
  for plane in trace.planes:
    for line in plane.lines:
      for event in line.events:
        if not event.duration_ns or event.name.startswith('end: '):
          continue
        said = dict(event.stats)
        if 'hlo_op' in said and 'hlo_module' in said:
          key = str(said['hlo_module']), str(said['hlo_op'])
          seconds[key] += event.duration_ns / 1e9
  return seconds


def described(shares: Mapping[str, float]) -> Iterator[str]:
  """A table of shares, a line each."""
  if not shares:
    yield 'the trace names no operation of a program; look at it in Perfetto'
    return
  yield 'share of the time of operations, by named scope:'
  for name, share in shares.items():
    yield f'  {name:<10} {share:6.1%}'
