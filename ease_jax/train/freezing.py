"""Parameters that stay as they are while others learn."""

from collections.abc import Iterable
from typing import NamedTuple

import jax

from ease_jax.checks import need
from ease_jax.core.freeze import (
  ADAPTER,
  GATE,
  OWN_BLOCK,
  OWN_HEAD,
  Freeze,
  is_beside,
)
from ease_jax.model import Params
from ease_jax.train.paths import path_of

# Names of the two parts of the optimizer, as checkpoints have them.
LEARNS = 'gate'
STAYS = 'frozen'

UNEMBED = 'unembed'
# Behind all layers.
HEADS = (ADAPTER, OWN_BLOCK, OWN_HEAD, 'readout_norm', UNEMBED)


class Learned(NamedTuple):
  """What gradients go through."""

  cell_passes: int  # products of a layer, backward: of its states, its own
  head_passes: int  # products of the last head: forward, of states, its own
  early_passes: int  # the same of heads before it


def learned_of(freeze: Freeze, names: Iterable[str]) -> Learned:
  """What gradients go through while some parameters stay.

  Args:
    freeze: which ones.
    names: paths of all parameters.
  """
  learned = [name for name in names if freeze.learns(name)]
  whole = [name for name in learned if not is_beside(name)]
  groups = {name.partition('/')[0] for name in whole}
  of_heads = {group for group in groups if group.startswith(HEADS)}
  own = {group for group in groups if group.startswith(GATE)}
  if groups - of_heads - own:
    return Learned(cell_passes=2, head_passes=3, early_passes=3)

  reaches_cells = len(whole) < len(learned)
  passes_heads = reaches_cells or bool(of_heads)
  if not passes_heads:
    return Learned(cell_passes=0, head_passes=1, early_passes=1)

  own_heads = any(group.startswith(OWN_HEAD) for group in groups)
  head_passes = 3 if UNEMBED in groups else 2
  early_passes = 3 if own_heads else head_passes
  return Learned(int(reaches_cells), head_passes, early_passes)


def held(params: Params, freeze: Freeze) -> Params:
  """The same values; what is frozen is constant to the backward pass."""
  if not freeze.held:
    return params

  def kept(path: jax.tree_util.KeyPath, x: jax.Array) -> jax.Array:
    learns = freeze.learns(path_of(path))
    return x if learns else jax.lax.stop_gradient(x)

  return jax.tree_util.tree_map_with_path(kept, params)


def labels(params: Params, freeze: Freeze) -> Params:
  """LEARNS or STAYS in the place of each parameter."""

  def label(path: jax.tree_util.KeyPath, x: jax.Array) -> str:
    del x
    return LEARNS if freeze.learns(path_of(path)) else STAYS

  return jax.tree_util.tree_map_with_path(label, params)


def check(
  kind: str, freeze: Freeze, names: Iterable[str], *, trains: bool
) -> None:
  """Refuses what leaves nothing to learn, and patterns of nothing.

  Args:
    kind: the field `train.freeze`.
    freeze: what it stands for.
    names: paths of the model's parameters.
    trains: whether anything has to learn.

  Raises:
    ConfigError: says which.
  """
  names = list(names)
  for pattern in freeze.held:
    need(
      any(not Freeze((pattern,)).learns(name) for name in names),
      f'train.freeze_paths names {pattern!r}, and no parameter is called like '
      f'that: there are {_groups(names)}; mend or leave it out',
    )
  need(
    not trains or any(freeze.learns(name) for name in names),
    f'train.freeze={kind} leaves nothing to learn; name loss.gates or '
    'model.readout_adapters, or use nothing',
  )


def _groups(names: Iterable[str]) -> str:
  """The first parts of some paths, each once."""
  groups = dict.fromkeys(name.partition('/')[0] for name in names)
  return ', '.join(groups)
