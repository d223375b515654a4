"""How cells run with a cache to look back at."""

import jax
import jax.numpy as jnp

from ease_jax.decode import cache as caches
from ease_jax.decode.cache import Cache, New
from ease_jax.model import Body
from ease_jax.model import attention as attention_lib
from ease_jax.model.attention import KV
from ease_jax.model.sight import visible, within
from ease_jax.model.walk import Call, Layer, Ran, Walked, shown


def cached(
  bound: Body,
  cache: Cache | None,
  position_BxT: jax.Array,
  mask_BxTxT: jax.Array,
  *,
  skip: bool,
  asked_K: jax.Array | None = None,
) -> Layer:
  """Runs blocks on a few tokens that also see a cache.

  Args:
    bound: a bound body.
    cache: of the tokens before; None = there are none.
    position_BxT: positions of the tokens; B may be 1.
    mask_BxTxT: whom of each other they see, if everybody may be seen.
    skip: do not run a cell that no token needs, except for its keys and
      values. The branch also lets XLA write caches in place in a loop: a
      straight program keeps a copy of each for its readers.
    asked_K: readouts that are asked, bool: of a cell aside of another one only
      keys and values are made. None = none ever is, and nothing is made.
  """
  rotation = attention_lib.rotation(bound.cfg, position_BxT)
  scoring = attention_lib.scoring(bound.cfg)

  def layer(call: Call, h_BxTxD: jax.Array) -> Ran:
    # Outside of all branches: it is the same for all steps of a loop.
    block = bound.block(call.cell, call.run)

    def run() -> Ran:
      kv = shown(call, block.kv(h_BxTxD, rotation))
      near = within(mask_BxTxT, position_BxT, block.window)
      mask = visible(near, call.seen_BxT)
      live_B = None if call.goes_BxT is None else call.goes_BxT.any(1)

      def look(query_BxTxHxD: jax.Array) -> jax.Array:
        if cache is None:
          return attention_lib.attention(query_BxTxHxD, kv, mask, scoring)
        number = call.cell.number
        seen = caches.seen(cache, number, position_BxT, block.window)
        return caches.attend(
          cache, number, query_BxTxHxD, kv, mask, seen, scoring, live_B
        )

      h = block.attend(h_BxTxD, rotation, look)
      return Ran(h, kv, jnp.int32(1), jnp.int32(0))

    def project() -> tuple[KV, jax.Array]:
      return block.kv(h_BxTxD, rotation), jnp.int32(1)

    def fill() -> Ran:
      """Nobody needs the cell, at most its keys and values."""
      kv, fills = _filled(call, project)
      return Ran(h_BxTxD, kv, jnp.int32(0), fills)

    wanted = None if call.goes_BxT is None else call.goes_BxT.any()
    if call.cell.aside:
      if asked_K is None:
        return Ran(h_BxTxD, None, 0)
      asked = asked_K[call.cell.readout]
      wanted = asked if wanted is None else asked & wanted
      return jax.lax.cond(wanted, run, fill)
    if not skip or wanted is None:
      return run()
    return jax.lax.cond(wanted, run, fill)

  return layer


def _filled(call: Call, project) -> tuple[KV, jax.Array]:
  """Keys and values of a cell that nobody runs, and cells that were filled."""
  if call.reused is not None:
    return call.reused, jnp.int32(0)
  if call.seen_BxT is None:
    return project()

  def nothing() -> tuple[KV, jax.Array]:
    shapes, _ = jax.eval_shape(project)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return zeros, jnp.int32(0)

  return jax.lax.cond(call.seen_BxT.any(), project, nothing)


def passed(body: Body, walked: Walked, exit_B: jax.Array) -> jax.Array | None:
  """Cells that a router kept a token out of, on its way to its answer.

  Args:
    body: the body that was walked.
    walked: of all cells but the coda's, one token in every row.
    exit_B: the readout that answered.

  Returns:
    [B, L] int32, the coda's cells last; None where there is no router.
  """
  grid = body.grid
  if not grid.routed:
    return None
  reach_B = jnp.asarray(grid.reach_K)[exit_B]
  nobody_B = jnp.zeros(exit_B.shape, bool)
  columns = [nobody_B] * grid.num_cells
  for call in walked.calls:
    if call.cell.router is not None:
      assert call.goes_BxT is not None
      on_its_way_B = call.cell.number < reach_B
      columns[call.cell.number] = on_its_way_B & ~call.goes_BxT[:, 0]
  return jnp.stack(columns, 1).astype(jnp.int32)


def addition(walks: list[Walked], absent_BxT: jax.Array) -> New:
  """What walks through all cells add to a cache.

  Args:
    walks: of all cells in their order.
    absent_BxT: tokens that nobody may ever see.
  """
  kv: dict[int, KV] = {}
  seen = []

  for walked in walks:
    for call, own in zip(walked.calls, walked.kv, strict=True):
      if own is None:  # nobody will look at that cell
        seen.append(jnp.zeros(absent_BxT.shape, bool))
        continue
      kv[call.cell.number] = own
      here_BxT = ~absent_BxT
      if call.seen_BxT is not None:
        here_BxT &= call.seen_BxT
      seen.append(here_BxT)

  return New(kv, jnp.stack(seen))
