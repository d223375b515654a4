"""What a walk knows of the exits of its tokens, and what it counts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.model.readout import Read

Tree = Any  # any tree of arrays


class Counts(NamedTuple):
  """What a program did, counted where it is done; int32 scalars."""

  cells: jax.Array
  heads: jax.Array
  fills: jax.Array  # cells of which only keys and values were made


def no_counts() -> Counts:
  """Nothing was done yet."""
  zero = jnp.int32(0)
  return Counts(zero, zero, zero)


class Exits(NamedTuple):
  """What a walk knows of the exits of its tokens.

  Attributes:
    done_BxT: tokens that ask for nothing more, or never did.
    exit_BxT: the readout that answered, int32; for tokens that are not done
      the deepest one so far.
    memory: of the signal.
    previous: the readout before; None at the first.
    answer: what the answering readouts said, a tree of [B, T, ...]; None
      before the first readout.
    counts: what was done so far.
  """

  done_BxT: jax.Array
  exit_BxT: jax.Array
  memory: Tree
  previous: Read | None
  answer: Tree
  counts: Counts


def before_exits(done_BxT: jax.Array, memory: Tree = ()) -> Exits:
  """The exits before the first cell.

  Args:
    done_BxT: tokens that want nothing from the start.
    memory: of the signal.
  """
  exit_BxT = jnp.zeros(done_BxT.shape, jnp.int32)
  return Exits(done_BxT, exit_BxT, memory, None, None, no_counts())


def settled(exits: Exits, k: int, stops_BxT: jax.Array, answer: Tree) -> Exits:
  """The exits after a readout; whoever was done before keeps its answer.

  Args:
    exits: before it.
    k: the readout.
    stops_BxT: tokens that stop there.
    answer: what it says, a tree of [B, T, ...].
  """
  done_BxT = exits.done_BxT
  if exits.answer is not None:
    answer = where(done_BxT, exits.answer, answer)
  return exits._replace(
    done_BxT=done_BxT | stops_BxT,
    exit_BxT=jnp.where(done_BxT, exits.exit_BxT, k),
    answer=answer,
  )


def where(mask_BxT: jax.Array, new: Tree, old: Tree) -> Tree:
  """Picks whole tokens of two trees of [B, T, ...]."""

  def pick(a: jax.Array, b: jax.Array) -> jax.Array:
    mask = mask_BxT.reshape(mask_BxT.shape + (1,) * (a.ndim - 2))
    return jnp.where(mask, a, b)

  return jax.tree.map(pick, new, old)
