"""Arrays on all devices of a mesh, made of what each process has, and back."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ease_jax import sharding
from ease_jax.checks import need

Rows = dict[str, Any]  # arrays by name, rows first
Array = jax.Array | np.ndarray
Tree = Any  # any tree of arrays


class Share(NamedTuple):
  """Which rows of a batch a process reads: one of `parts` equal parts."""

  part: int = 0
  parts: int = 1


def share_of_process(mesh: Mesh | None, process: int) -> Share:
  """Which rows a process reads: those that its devices hold.

  Args:
    mesh: None = one device.
    process: its number.
  """
  if mesh is None:
    return Share()
  spec = sharding.spec_of(mesh)
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


def own_share() -> Share:
  """Which rows this process reads."""
  return share_of_process(sharding.current(), jax.process_index())


def from_own_rows(batch: Rows, num_rows: int) -> Rows:
  """A batch on all devices, of the rows that each process read.

  Args:
    batch: arrays of which the first dimension is rows.
    num_rows: of the batch in all.
  """
  mesh = sharding.current()
  if mesh is None:
    return batch
  where = NamedSharding(mesh, sharding.BATCH)
  own = num_rows // own_share().parts

  def put(x: np.ndarray) -> jax.Array:
    need(
      len(x) == own,
      f'the task reads {len(x)} rows of a batch of {num_rows} in a process '
      f'that holds {own}; let it ask arrays.own_share',
    )
    shape = num_rows, *x.shape[1:]
    return jax.make_array_from_process_local_data(where, x, shape)

  return {name: put(np.asarray(x)) for name, x in batch.items()}


def from_all_rows(batch: Mapping[str, np.ndarray]) -> Mapping[str, Any]:
  """A batch on all devices, of which every process has all rows."""
  mesh = sharding.current()
  if mesh is None:
    return batch
  return {name: put(x, sharding.BATCH) for name, x in batch.items()}


def put(x: Array, where: PartitionSpec) -> jax.Array:
  """An array that every process has, on all devices of the current mesh."""
  mesh = sharding.current()
  assert mesh is not None
  whole = np.asarray(x)

  def part(index: tuple[slice, ...] | None) -> np.ndarray:
    return whole[index or ()]

  return jax.make_array_from_callback(
    whole.shape, NamedSharding(mesh, where), part
  )


def get(tree: Tree) -> Tree:
  """Arrays of NumPy, in every process the same, of those on all devices."""
  mesh = sharding.current()
  if mesh is not None and jax.process_count() > 1:
    whole = NamedSharding(mesh, sharding.WHOLE)
    tree = jax.jit(_same, out_shardings=whole)(tree)
  return jax.device_get(tree)


def _same(tree: Tree) -> Tree:
  return tree


def own_parts(
  x: Array,
) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
  """Where each part of an array starts that this process has, and the part.

  Of several processes or devices that have the same part, one counts.
  """
  if not isinstance(x, jax.Array):
    yield (0,) * np.ndim(x), np.asarray(x)
    return
  for shard in x.addressable_shards:
    if shard.replica_id == 0:
      start = tuple(cut.start or 0 for cut in shard.index)
      yield start, np.asarray(shard.data)


def put_state(tree: Tree) -> Tree:
  """Parameters that every process has, each where it lies on the mesh.

  Args:
    tree: whole ones, or some that lie there already.
  """
  mesh = sharding.current()
  if mesh is None:
    return tree

  def one(x: Array, where: PartitionSpec) -> Array:
    return x if _is_spread(x) else put(x, where)

  specs = sharding.of_state(tree, sharding.spec_of(mesh))
  return jax.tree.map(one, tree, specs)


def _is_spread(x: Array) -> bool:
  """Whether an array is on all devices already."""
  place = x.sharding if isinstance(x, jax.Array) else None
  return isinstance(place, NamedSharding) and place.mesh == sharding.current()


def places(abstract: Tree) -> Tree:
  """Where the arrays of a state belong, one sharding for each.

  Args:
    abstract: their shapes.
  """
  mesh = sharding.current()
  if mesh is None:
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda _: here, abstract)

  def on_mesh(where: PartitionSpec) -> NamedSharding:
    return NamedSharding(mesh, where)

  specs = sharding.of_state(abstract, sharding.spec_of(mesh))
  return jax.tree.map(on_mesh, specs)
