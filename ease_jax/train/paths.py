"""Names of the leaves of a tree, such as `layer_0/query/kernel`."""

from typing import Any

import jax

Tree = Any  # any tree of arrays


def path_of(path: jax.tree_util.KeyPath) -> str:
  """The name of one leaf."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def leaves(tree: Tree) -> dict[str, Any]:
  """Name -> leaf; the same names for tuples with and without names."""
  found, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {path_of(path): leaf for path, leaf in found}
