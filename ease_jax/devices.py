"""The devices and processes of a run: which there are, and what they may do."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from ease_jax import processes, sharding
from ease_jax.checks import need
from ease_jax.lock import locked
from ease_jax.specs import Specs

TRAINING = ('all', 'train')
SPREAD = (*TRAINING, 'evaluate')  # modes that several processes share


def check(checked: Specs, mode: str) -> None:
  """Refuses what does not work on several devices or in several processes."""
  mesh = checked.mesh
  several = processes.several()
  need(
    mesh.size == 1 or not checked.train.fit_tokens or mode not in TRAINING,
    f'train.fit_tokens={checked.train.fit_tokens} is fitted on one device, and '
    f'{mesh} has {mesh.size}; fit in a run of one, and start from it',
  )
  need(
    not several or mode in SPREAD,
    f'--mode={mode} is done by one process, and there are '
    f'{jax.process_count()}; leave --multihost out',
  )
  need(
    not several or mesh.size == jax.device_count(),
    f'{mesh} has {mesh.size} of the {jax.device_count()} devices of '
    f'{jax.process_count()} processes, so that some have nothing to do; use '
    'all of them (mesh.data=-1)',
  )
  need(
    not several or mode == 'train' or not checked.sweep.speed_tokens,
    f'evaluate.speed_tokens={checked.sweep.speed_tokens} is decoded by one '
    f'process, and there are {jax.process_count()}; use 0, or --mode=train '
    'here and --mode=evaluate in one process',
  )


@contextlib.contextmanager
def at_work(checked: Specs, mode: str) -> Iterator[None]:
  """What is computed meanwhile is computed on the run's mesh; one speaks."""
  with processes.quiet(), sharding.using(_mesh_of(checked, mode)):
    yield


def _mesh_of(checked: Specs, mode: str) -> Mesh | None:
  """The mesh of a run; None = one device. Says which devices are left out."""
  spec = checked.mesh
  num = jax.device_count()
  if spec.size < num and mode in SPREAD:
    print(
      f'{spec} uses {spec.size} of {num} devices; mesh.data=-1 uses all',
      file=sys.stderr,
    )
  return sharding.make_mesh(spec, jax.devices()) if spec.size > 1 else None


@contextlib.contextmanager
def locked_by_first(folder: pathlib.Path) -> Iterator[None]:
  """The lock of a directory, which the first process holds for all."""
  with contextlib.ExitStack() as held:
    with processes.together():
      if processes.is_first():
        held.enter_context(locked(folder))
    yield
