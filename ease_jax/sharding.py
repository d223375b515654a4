"""Many devices: the mesh, and what of each array lies on which of them.

A mesh has three axes. Rows of a batch are spread over `data` and `fsdp`;
parameters, with what the optimizer keeps of them, are spread over `fsdp` (cut
wherever it fits, put together for use) and `tensor` (cut so that each device
computes with its part, as Megatron-LM does, 1909.08053). XLA adds what devices
must tell each other (GSPMD, 2105.04663): a program says what is computed, and
`constrain` here and there where its arrays lie, never how.

On one device there is no mesh, and nothing of this takes place.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ease_jax.checks import Count, Range, check_fields, need, plain

DATA = 'data'
FSDP = 'fsdp'
TENSOR = 'tensor'
AXES = (DATA, FSDP, TENSOR)  # the last ones' devices are next to each other
ROWS = (DATA, FSDP)  # what rows of a batch are spread over
REST = -1  # mesh.data: all devices that the other axes leave

Tree = Any  # any tree of arrays
Device = Any  # of JAX, whose type has no name
T = TypeVar('T')


@dataclasses.dataclass(frozen=True)
class MeshSpec:
  """How many devices there are along each axis of a mesh.

  Attributes:
    data: parts of a batch; each has all parameters. REST = what is left.
    fsdp: parts of a batch and of the parameters.
    tensor: parts of heads, of MLPs and of the vocabulary.
  """

  data: Annotated[int, Range(REST, 2**31 - 1)] = 1
  fsdp: Count = 1
  tensor: Count = 1

  @classmethod
  def from_config(cls, section: Mapping[str, Any]) -> 'MeshSpec':
    """The spec of a config's section `mesh`.

    Raises:
      ConfigError: a field has a value that cannot be used.
    """
    return cls(**plain(section))

  def __post_init__(self):
    check_fields('mesh', self)
    need(
      self.data != 0,
      f'mesh.data=0 leaves no device; use 1, or {REST} for what is left',
    )

  def __str__(self) -> str:
    sizes = dataclasses.asdict(self).items()
    return ', '.join(f'mesh.{name}={size}' for name, size in sizes)

  @property
  def size(self) -> int:
    """Devices in all."""
    return math.prod(dataclasses.astuple(self))

  @property
  def rows(self) -> int:
    """Parts that the rows of a batch are cut into."""
    return self.data * self.fsdp

  def of_axis(self, axis: str | None) -> int:
    """Devices along an axis; 1 along none."""
    return 1 if axis is None else getattr(self, axis)

  def on(self, num_devices: int) -> 'MeshSpec':
    """The spec with the rest of so many devices known.

    Raises:
      ConfigError: there are too few, or some of them belong to no part.
    """
    others = self.fsdp * self.tensor
    spec = self
    if self.data == REST:
      need(
        num_devices % others == 0,
        f'{self} does not divide the {num_devices} devices that there are; '
        'change mesh.fsdp or mesh.tensor',
      )
      spec = dataclasses.replace(self, data=num_devices // others)
    need(
      spec.size <= num_devices,
      f'{self} asks for {spec.size} devices, and there are {num_devices}; '
      'lower one of them',
    )
    return spec


def check_parts(field: str, number: int, spec: MeshSpec, *axes: str) -> None:
  """Refuses what cannot be cut into equal parts along axes of a mesh.

  Args:
    field: of the config that says how many there are.
    number: of what is cut.
    spec: of the mesh, without a rest.
    *axes: one after another.

  Raises:
    ConfigError: they do not divide it.
  """
  parts = math.prod(spec.of_axis(axis) for axis in axes)
  names = ' times '.join(f'mesh.{axis}={spec.of_axis(axis)}' for axis in axes)
  need(
    number % parts == 0,
    f'{field}={number} is not divisible by {names}; change one of them',
  )


def make_mesh(spec: MeshSpec, devices: Sequence[Device]) -> Mesh:
  """The mesh of a spec, on the first of some devices.

  Args:
    spec: without a rest.
    devices: at least `spec.size`, those of one process next to each other.
  """
  # Auto: XLA finds out where arrays lie that nobody has placed.
  return jax.make_mesh(
    dataclasses.astuple(spec),
    AXES,
    axis_types=(AxisType.Auto,) * len(AXES),
    devices=devices[: spec.size],
  )


# ------------------------------------------------------------- of parameters

# The end of a parameter's path, and the axis that each of its dimensions is
# cut along. What states are multiplied with first is cut by what comes out,
# what comes next by what goes in: in between nothing has to be told.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
  (r'(embed|unembed|head_\d+)', (TENSOR, FSDP)),
  (r'(query|key|value|up|gate)/kernel', (FSDP, TENSOR)),
  (r'(query|key|value|up|gate)/bias', (TENSOR,)),
  (r'(query|key|value|up|gate)/out_of', (FSDP, TENSOR)),
  (r'(out|down)/kernel', (TENSOR, FSDP)),
  (r'(out|down)/into', (TENSOR, FSDP)),
)


def of_parameter(
  path: str, shape: Sequence[int], spec: MeshSpec
) -> PartitionSpec:
  """Where a parameter lies, or what an optimizer keeps of it.

  An axis that does not divide its dimension is left out. What has no rule is
  cut along `fsdp` in its longest dimension that can be; vectors lie whole on
  every device.

  Args:
    path: its name, such as `layer_0/query/kernel`; of an optimizer's state,
      one that ends so.
    shape: its own, whole.
    spec: of the mesh, without a rest.
  """
  for pattern, axes in RULES:
    if len(axes) == len(shape) and re.search(f'(^|/){pattern}$', path):
      return _dividing(axes, shape, spec)
  if len(shape) < 2:
    return PartitionSpec()

  fitting = [i for i, size in enumerate(shape) if size % spec.fsdp == 0]
  longest = max(fitting, key=shape.__getitem__, default=None)
  own = tuple(FSDP if i == longest else None for i in range(len(shape)))
  return _dividing(own, shape, spec)


def _dividing(
  axes: Sequence[str | None], shape: Sequence[int], spec: MeshSpec
) -> PartitionSpec:
  """Some axes, without those of one device or that do not divide."""
  kept = []
  for axis, size in zip(axes, shape, strict=True):
    parts = spec.of_axis(axis)
    kept.append(axis if parts > 1 and size % parts == 0 else None)
  while kept and kept[-1] is None:
    kept.pop()
  return PartitionSpec(*kept)


def of_state(tree: Tree, spec: MeshSpec) -> Tree:
  """A PartitionSpec for each array of a tree of parameters, or around them.

  Args:
    tree: parameters, an optimizer's state, or both; arrays or shapes.
    spec: of the mesh, without a rest.
  """

  def of_leaf(path: jax.tree_util.KeyPath, x: jax.Array) -> PartitionSpec:
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    return of_parameter(name, x.shape, spec)

  return jax.tree_util.tree_map_with_path(of_leaf, tree)


def local_shape(
  path: str, shape: Sequence[int], spec: MeshSpec
) -> tuple[int, ...]:
  """The shape of what one device holds of a parameter."""
  axes = of_parameter(path, shape, spec)
  whole = len(shape) - len(axes)
  parts = [spec.of_axis(axis) for axis in (*axes, *[None] * whole)]
  return tuple(size // n for size, n in zip(shape, parts, strict=True))


# ---------------------------------------------------------------- of batches

BATCH = PartitionSpec(ROWS)  # rows first; whole along other dimensions
WHOLE = PartitionSpec()


class Share(NamedTuple):
  """Which rows of a batch a process reads: one of `parts` equal parts."""

  part: int = 0
  parts: int = 1


def current() -> Mesh | None:
  """The mesh that programs are made for now; None = one device."""
  mesh = jax.sharding.get_mesh()
  return mesh if mesh.axis_names == AXES else None


def spec_of(mesh: Mesh) -> MeshSpec:
  """The spec of a mesh."""
  return MeshSpec(**dict(mesh.shape))


@contextlib.contextmanager
def using(mesh: Mesh | None):
  """Programs that are made meanwhile are for a mesh; None = one device."""
  if mesh is None:
    yield
    return
  with jax.set_mesh(mesh):
    yield


def constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
  """The same array, said to lie along some axes; nothing on one device.

  Args:
    x: in a program.
    *axes: of each dimension; those left out lie whole.
  """
  if jax.sharding.get_abstract_mesh().axis_names != AXES:
    return x
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))


def share_of_process(mesh: Mesh | None, process: int) -> Share:
  """Which rows a process reads: those that its devices hold.

  Args:
    mesh: None = one device.
    process: its number.
  """
  if mesh is None:
    return Share()
  spec = spec_of(mesh)
  devices = mesh.devices.reshape(spec.rows, spec.tensor)
  own = np.array([[d.process_index == process for d in ds] for ds in devices])
  (held,) = np.nonzero(own.any(1))
  size = len(held)
  first = int(held[0])
  whole = spec.rows % size == 0 and first % size == 0
  need(
    whole and held[-1] - first + 1 == size,
    f'{spec} cuts rows so that process {process} holds parts '
    f'{held.tolist()} of {spec.rows}, which are no whole share; '
    'let mesh.tensor divide the devices of a process, or be a multiple of them',
  )
  return Share(first // size, spec.rows // size)


def put_rows(batch: Mapping[str, np.ndarray], mesh: Mesh | None) -> Tree:
  """A global batch of the rows that this process read.

  Args:
    batch: arrays of which the first dimension is rows.
    mesh: None = one device; then nothing is done.
  """
  if mesh is None:
    return batch
  where = NamedSharding(mesh, BATCH)

  def put(x: np.ndarray) -> jax.Array:
    return jax.make_array_from_process_local_data(where, x)

  return jax.tree.map(put, dict(batch))
