"""Several processes that make one run: how they meet, and what they agree on.

All of them run the same program on the same config, each on its own devices
and with its own rows of every batch. The first one alone writes files, but for
the checkpoints, of which each writes its part. What only one of them can know
(a signal, the lock of a directory, an error) is told to all before anybody
acts on it, since a process that goes another way leaves the others waiting.
"""

import contextlib
import os
import sys
import threading
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from ease_jax import arrays, sharding
from ease_jax.checks import ConfigError, need
from ease_jax.machine import complain

OFF = 'off'
AUTO = 'auto'
ENV = 'env'
WAYS = (OFF, AUTO, ENV)

COORDINATOR = 'EASE_COORDINATOR'
NUM_PROCESSES = 'EASE_NUM_PROCESSES'
PROCESS_ID = 'EASE_PROCESS_ID'
VARIABLES = (COORDINATOR, NUM_PROCESSES, PROCESS_ID)

WAIT_S = 300  # for the others to start
LONGEST = 2000  # bytes of a message that is told to all
COME = (
  'check that all processes were started, each with a number of its own, and '
  'see the first one'
)


class Place(NamedTuple):
  """A process among those of a run, as the environment says.

  Attributes:
    coordinator: HOST:PORT, where the first process listens.
    num: of the processes.
    index: of this one, from 0.
  """

  coordinator: str
  num: int
  index: int


def place(environ: Mapping[str, str]) -> Place:
  """What VARIABLES say.

  Args:
    environ: of this process.

  Raises:
    ConfigError: one of them is missing, or says nothing that can be used.
  """
  missing = [name for name in VARIABLES if not environ.get(name)]
  need(
    not missing,
    f'--multihost={ENV} needs {", ".join(missing)} in the environment; set '
    f'{COORDINATOR}=HOST:PORT of the first process, {NUM_PROCESSES}, and '
    f'{PROCESS_ID} from 0',
  )
  for name in VARIABLES[1:]:
    need(
      environ[name].isdecimal(),
      f'{name}={environ[name]} is no whole number; correct it',
    )
  found = Place(
    environ[COORDINATOR], int(environ[NUM_PROCESSES]), int(environ[PROCESS_ID])
  )
  host, _, port = found.coordinator.rpartition(':')
  need(
    bool(host) and port.isdecimal(),
    f'{COORDINATOR}={found.coordinator} must look like HOST:PORT',
  )
  need(
    found.index < found.num,
    f'{PROCESS_ID}={found.index} is not below {NUM_PROCESSES}={found.num}; '
    'number the processes from 0',
  )
  return found


def connect(way: str) -> None:
  """Meets the other processes of the run; before JAX is used at all.

  Args:
    way: off = there are none; auto = as JAX finds out (SLURM, Open MPI,
      Kubernetes, TPU); env = as VARIABLES say.

  Raises:
    ConfigError: they cannot be found, or are not as many as this one was told.
  """
  need(way in WAYS, f'--multihost={way} is unknown; use one of {WAYS}')
  if way == OFF:
    return
  # Its handler of SIGTERM would take the place of Python's.
  jax.config.update('jax_enable_preemption_service', False)
  found = place(os.environ) if way == ENV else None
  try:
    with _not_for_ever(way):
      if found is None:
        jax.distributed.initialize(initialization_timeout=2 * WAIT_S)
      else:
        jax.distributed.initialize(
          found.coordinator,
          found.num,
          found.index,
          initialization_timeout=2 * WAIT_S,
          cluster_detection_method='deactivate',
        )
  except (ValueError, RuntimeError, OSError) as error:
    words = ' '.join(str(error).split()) or type(error).__name__
    fix = (
      COME
      if found
      else f'start it by SLURM, Open MPI, Kubernetes or on TPUs, or use '
      f'--multihost={ENV} with {", ".join(VARIABLES)}'
    )
    raise ConfigError(
      f'--multihost={way} cannot start this process ({words[:200]}); {fix}'
    ) from error
  if found:
    _check_number(found)


@contextlib.contextmanager
def _not_for_ever(way: str) -> Iterator[None]:
  """Ends the process in one line if the others do not come in WAIT_S.

  JAX would abort it with a trace, and lets nobody catch that.
  """

  def give_up() -> None:
    complain(f'--multihost={way} waited {WAIT_S} s for the others; {COME}')
    sys.stderr.flush()
    os._exit(1)

  clock = threading.Timer(WAIT_S, give_up)
  clock.daemon = True
  clock.start()
  try:
    yield
  finally:
    clock.cancel()


def _check_number(found: Place) -> None:
  """All processes were told the same number; the first one's word counts."""
  num = jax.process_count()
  says = f'{NUM_PROCESSES}={found.num} of process {found.index}'
  meet(
    ''
    if found.num == num
    else f'{says} is not the {num} of the first one; set the same in all'
  )


def several() -> bool:
  """Whether this process is one of several."""
  return jax.process_count() > 1


def is_first() -> bool:
  """Whether this process writes files and speaks."""
  return jax.process_index() == 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """Only the first process prints meanwhile; errors are raised in all."""
  if is_first():
    yield
    return
  with open(os.devnull, 'w', encoding='utf-8') as nowhere:
    with contextlib.redirect_stdout(nowhere):
      with contextlib.redirect_stderr(nowhere):
        yield


def agreed(value: bool) -> bool:
  """Whether it holds in any process; all of them ask."""
  if not several():
    return value
  return bool(multihost_utils.process_allgather(np.array(value)).any())


def total(number: int) -> int:
  """The sum over all processes of a number below 2^64, modulo that."""
  if not several():
    return number
  halves = np.array([number >> 32, number % 2**32], np.uint32)
  every = multihost_utils.process_allgather(halves).astype(object)
  return int(sum(high * 2**32 + low for high, low in every)) % 2**64


def meet(problem: str = '') -> None:
  """Waits for all processes, and fails in all of them if one has a problem.

  Args:
    problem: of this one; '' = none.

  Raises:
    ConfigError: the problem of the first one that has any.
  """
  if not several():
    need(not problem, problem)
    return
  told = np.zeros(LONGEST, np.uint8)
  words = problem.encode()[:LONGEST]
  told[: len(words)] = np.frombuffer(words, np.uint8)
  for words in multihost_utils.process_allgather(told):
    text = bytes(words).rstrip(b'\0').decode('utf-8', 'ignore')
    need(not text, text)


def warn_of_same_rows(token_BxT: np.ndarray) -> None:
  """Says so if processes whose rows should differ have read the same ones.

  Args:
    token_BxT: of a batch, what this process read of it.
  """
  if not several():
    return
  part = arrays.own_share().part
  own = np.array([part, zlib.crc32(token_BxT.tobytes())], np.uint32)
  part_P, read_P = multihost_utils.process_allgather(own).T
  if is_first() and len(set(read_P.tolist())) < len(set(part_P.tolist())):
    complain(
      'warning: several processes have read the same rows of the first batch; '
      'unless the text repeats itself, the task must ask arrays.own_share '
      'which part of a batch is its own'
    )


@contextlib.contextmanager
def together() -> Iterator[None]:
  """What is done inside goes well in all processes, or fails in all."""
  if not several():
    yield
    return
  try:
    yield
  except (ConfigError, OSError) as error:
    meet(str(error) or type(error).__name__)
    raise
  meet()


# ---------------------------------------------------------------- each update


class Tally(NamedTuple):
  """What all processes come to in an update; scalars, maybe not yet computed.

  Attributes:
    tokens: that count in the batch.
    stops: whether any of them is to stop.
  """

  tokens: jax.Array | np.ndarray | int
  stops: jax.Array | np.ndarray | bool


def tally(mask_BxT: jax.Array | np.ndarray, stops: bool) -> Tally:
  """Counts over all processes without waiting for any.

  Args:
    mask_BxT: of the batch, on all devices.
    stops: whether this process is to stop.
  """
  mesh = sharding.current()
  if mesh is None:
    return Tally(np.sum(mask_BxT), stops)
  every = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

  def own(index: tuple[slice, ...] | None) -> np.ndarray:
    del index
    return np.array([stops])

  stops_P = jax.make_array_from_callback((mesh.size,), every, own)
  return Tally(*_counted(mask_BxT, stops_P))


@jax.jit
def _counted(
  mask_BxT: jax.Array, stops_P: jax.Array
) -> tuple[jax.Array, jax.Array]:
  return (mask_BxT > 0).sum(), stops_P.any()


def leave(code: int) -> None:
  """Ends one of several processes, whose error the others do not know of.

  JAX would wait for them at the end of this one, as they wait for it.
  """
  if several():
    sys.stderr.flush()
    os._exit(code)
