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
from typing import Annotated, Any

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

from ease_jax.checks import Count, Range, check_fields, need, plain

DATA = 'data'
FSDP = 'fsdp'
TENSOR = 'tensor'
AXES = (DATA, FSDP, TENSOR)  # the last ones' devices are next to each other
ROWS = (DATA, FSDP)  # what rows of a batch are spread over
REST = -1  # mesh.data: all devices that the other axes leave

# One that a dimension is cut along; several at once; or none.
Axis = str | tuple[str, ...] | None
Tree = Any  # any tree of arrays
Device = Any  # of JAX, whose type has no name


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

  def of_axes(self, *axes: Axis) -> int:
    """Devices along some axes together."""
    sizes: dict[Axis, int] = {None: 1, ROWS: self.rows}
    sizes |= {axis: getattr(self, axis) for axis in AXES}
    return math.prod(sizes[axis] for axis in axes)

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
  parts = spec.of_axes(*axes)
  names = ' times '.join(f'mesh.{axis}={spec.of_axes(axis)}' for axis in axes)
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
  axes: Sequence[Axis], shape: Sequence[int], spec: MeshSpec
) -> PartitionSpec:
  """Some axes, without those of one device or that do not divide."""
  kept = []
  for axis, size in zip(axes, shape, strict=True):
    parts = spec.of_axes(axis)
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
  parts = [spec.of_axes(axis) for axis in (*axes, *[None] * whole)]
  return tuple(size // n for size, n in zip(shape, parts, strict=True))


# ---------------------------------------------------------------- of batches

BATCH = PartitionSpec(ROWS)  # rows first; whole along other dimensions
WHOLE = PartitionSpec()


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


def _sizes() -> MeshSpec:
  """The mesh that a program is made for; one device where there is none."""
  mesh = jax.sharding.get_abstract_mesh()
  return MeshSpec(**mesh.shape) if mesh.axis_names == AXES else MeshSpec()


def num_devices() -> int:
  """Devices of the mesh that programs are made for."""
  return _sizes().size


def row_parts() -> int:
  """Parts of the rows of a batch, in a program."""
  return _sizes().rows


def local_rows(num_rows: int) -> int:
  """Rows that a device has of some, in a program."""
  return -(-num_rows // row_parts())


def local_heads(num_heads: int) -> int:
  """Heads that a device computes, in a program."""
  return -(-num_heads // _sizes().tensor)


def local_vocab(vocab_size: int) -> int:
  """Tokens of a vocabulary whose logits a device makes, in a program."""
  return -(-vocab_size // _sizes().tensor)


def constrain(x: jax.Array, *axes: Axis) -> jax.Array:
  """The same array, said to lie along some axes; nothing on one device.

  Axes that do not divide their dimension are left out.

  Args:
    x: in a program.
    *axes: of each dimension; those left out lie whole.
  """
  spec = _sizes()
  if spec.size == 1:
    return x
  where = _dividing((*axes, *[None] * (x.ndim - len(axes))), x.shape, spec)
  return jax.lax.with_sharding_constraint(x, where)


def placed(tree: Tree) -> Tree:
  """Parameters, or a state around them, where `of_parameter` says.

  Args:
    tree: in a program.
  """
  spec = _sizes()
  if spec.size == 1:
    return tree
  return jax.lax.with_sharding_constraint(tree, of_state(tree, spec))
