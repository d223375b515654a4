"""The walk: the only loop over cells.

Training, evaluation, decoding, drafts, deferred tokens and prompts all walk
cells of the grid. They differ in `layer`, how a block is run (in parallel, with
a cache, for a few tokens), and in `read`, what happens at a readout (a loss, an
exit, a token), and never in the loop. Who takes part in a cell is `~done`, and
whom a router lets through: an exit is the monotone case of a router.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import chex
import jax
import numpy as np

from ease_jax import sharding
from ease_jax.core.grid import Cell
from ease_jax.core.policies import KVPolicy
from ease_jax.core.routers import Route, Taken
from ease_jax.model.attention import KV
from ease_jax.model.exits import Counts, Exits, Tree, where
from ease_jax.model.sight import Mask

RUNNING = 'h'  # the stream that every cell moves
MEMORY = 'memory'  # the stream of routers, [B, T, M] float32
State = dict[str, jax.Array]  # streams by name, each [B, T, D]
# Number of a segment among all that are run, from 0.
Run = jax.Array | np.ndarray | int


class Leap(NamedTuple):
  """A run's place on the whole way, from the input to the answer."""

  start: jax.Array  # the share of the way behind it
  step: jax.Array  # the share that it makes


class Walkable(Protocol):
  """What a walk asks of a body."""

  def combine(self, cell: Cell, state: State, run: Run) -> jax.Array:
    """The input of a cell that reads streams, [B, T, D]."""
    ...

  def written(self, cell: Cell, state: State, run: Run) -> State:
    """The streams that a cell writes, once it ran."""
    ...

  def route(self, cell: Cell, h_BxTxD: jax.Array, travel: 'Travel') -> Route:
    """Whom the router of a cell lets through."""
    ...


class Travel(NamedTuple):
  """Where the tokens of a walk stand."""

  position_BxT: jax.Array  # B may be 1
  key: jax.Array | None = None  # in training only
  memory_BxTxM: jax.Array | None = None  # of routers that keep one
  before: Run = 0  # segments run before the first cell's
  leap: Leap | None = None  # of the one run that is walked, on a shortcut


class Call(NamedTuple):
  """A cell about to run.

  Attributes:
    cell: which.
    run: number of the segment that it runs in, among all that are run; or
      its place on a shortcut.
    goes_BxT: tokens that run it.
    seen_BxT: tokens that others may see in it.
    reused: keys and values that tokens show which do not run it; None where
      they are made from their states.
    taken: a static number of tokens that holds all who run it and are seen;
      None where all tokens may as well be run.
  """

  cell: Cell
  run: Run | Leap
  goes_BxT: Mask
  seen_BxT: Mask
  reused: KV | None
  taken: Taken | None = None


class Ran(NamedTuple):
  """What came of a cell; states of tokens that do not run it do not matter."""

  h_BxTxD: jax.Array
  kv: KV | None = None
  cells: jax.Array | int = 1  # 0 where a program skipped it
  fills: jax.Array | int = 0


Layer = Callable[[Call, jax.Array], Ran]
# (readout, state, exits) -> exits, and what the walk shall keep of it.
Reader = Callable[[int, State, Exits | None], tuple[Exits | None, Tree]]


class Walked(NamedTuple):
  """What a walk comes to.

  Attributes:
    state: all streams, of each token where it stopped.
    exits: who stopped where; None in a walk without exits.
    reads: what was kept of each readout.
    calls: of each cell, who ran it and who may be seen in it.
    kv: keys and values of each cell, None where the layer keeps none.
    router_losses: of each router that learns, [B, T] nats.
  """

  state: State
  exits: Exits | None
  reads: tuple[Tree, ...]
  calls: tuple[Call, ...]
  kv: tuple[KV | None, ...]
  router_losses: tuple[jax.Array, ...]


def keep_nothing(
  k: int, state: State, exits: Exits | None
) -> tuple[Exits | None, Tree]:
  """A reader that does not read."""
  del k, state
  return exits, None


def walk(
  body: Walkable,
  cells: Sequence[Cell],
  state: State,
  exits: Exits | None,
  *,
  layer: Layer,
  travel: Travel,
  read: Reader = keep_nothing,
  policy: KVPolicy | None = None,
) -> Walked:
  """Runs cells one after another; tokens that are done keep their state.

  Args:
    body: a bound body.
    cells: consecutive cells of its grid.
    state: the streams before the first of them.
    exits: who is done; None = nobody is, and nobody will be.
    layer: runs a block.
    travel: where the tokens stand.
    read: reads a prediction.
    policy: what others see of tokens that are done; None = the keys and values
      of their frozen states.
  """
  calls: list[Call] = []
  kv: list[KV | None] = []
  reads: list[Tree] = []
  router_losses: list[jax.Array] = []

  for i, cell in enumerate(cells):
    held_BxT = _held(exits, policy)
    run = travel.before + cell.run
    before = state
    h_BxTxD = state[RUNNING]
    if cell.reads:
      read_BxTxD = body.combine(cell, state, run)
      chex.assert_equal_shape([read_BxTxD, h_BxTxD])
      h_BxTxD = _keep(held_BxT, h_BxTxD, read_BxTxD)

    route = None
    if cell.router is not None:
      route = body.route(cell, h_BxTxD, _arrived(travel, i, state))
      chex.assert_shape(route.runs_BxT, h_BxTxD.shape[:2])
      if route.memory_BxTxM is not None:
        state = state | {MEMORY: route.memory_BxTxM}
      if route.loss_BxT is not None:
        router_losses.append(route.loss_BxT)

    call = Call(
      cell,
      run if travel.leap is None else travel.leap,
      _goes(held_BxT, route),
      _seen(exits, policy, route),
      _reused(cells, i, exits, policy, kv),
      None if route is None else route.taken,
    )
    ran = layer(call, h_BxTxD)
    h_BxTxD = _moved(call.goes_BxT, route, h_BxTxD, ran.h_BxTxD)
    if not cell.grad:
      h_BxTxD = jax.lax.stop_gradient(h_BxTxD)

    h_BxTxD = sharding.constrain(h_BxTxD, sharding.ROWS)
    state = state | {RUNNING: h_BxTxD}
    if cell.writes:
      new = body.written(cell, state, run)
      state |= {name: _keep(held_BxT, state[name], new[name]) for name in new}

    calls.append(call)
    kv.append(ran.kv)
    if exits is not None:
      exits = exits._replace(counts=_counted(exits.counts, ran))
    if cell.readout is not None:
      exits, kept = read(cell.readout, state, exits)
      reads.append(kept)
    if cell.aside:
      state = before

  return Walked(
    state, exits, tuple(reads), tuple(calls), tuple(kv), tuple(router_losses)
  )


def shown(call: Call, own: KV) -> KV:
  """The keys and values that others see: a cell's own, or those reused.

  Args:
    call: the cell.
    own: keys and values that the cell made of all tokens.
  """
  if call.reused is None or call.goes_BxT is None:
    return own
  return where(call.goes_BxT, own, call.reused)


def _arrived(travel: Travel, i: int, state: State) -> Travel:
  """With a key of its own for each cell, so that no two draw the same."""
  travel = travel._replace(memory_BxTxM=state.get(MEMORY))
  if travel.key is None:
    return travel
  return travel._replace(key=jax.random.fold_in(travel.key, i))


def _held(exits: Exits | None, policy: KVPolicy | None) -> Mask:
  """Tokens whose state is frozen."""
  if exits is None or (policy is not None and policy.runs_on):
    return None
  return exits.done_BxT


def _keep(held_BxT: Mask, old: jax.Array, new: jax.Array) -> jax.Array:
  return new if held_BxT is None else where(held_BxT, old, new)


def _goes(held_BxT: Mask, route: Route | None) -> Mask:
  if route is None:
    return None if held_BxT is None else ~held_BxT
  if held_BxT is None:
    return route.runs_BxT
  return route.runs_BxT & ~held_BxT


def _seen(
  exits: Exits | None, policy: KVPolicy | None, route: Route | None
) -> Mask:
  seen_BxT = None if route is None else route.runs_BxT
  if exits is None or policy is None or not policy.hides:
    return seen_BxT
  if seen_BxT is None:
    return ~exits.done_BxT
  return seen_BxT & ~exits.done_BxT


def _reused(
  cells: Sequence[Cell],
  i: int,
  exits: Exits | None,
  policy: KVPolicy | None,
  kv: Sequence[KV | None],
) -> KV | None:
  if exits is None or policy is None:
    return None
  source = policy.source(cells, i)
  return None if source is None else kv[source]


def _moved(
  goes_BxT: Mask, route: Route | None, old: jax.Array, new: jax.Array
) -> jax.Array:
  if route is not None and route.weight_BxT is not None:
    weight_BxTx1 = route.weight_BxT[..., None].astype(old.dtype)
    new = old + weight_BxTx1 * (new - old)
  return new if goes_BxT is None else where(goes_BxT, new, old)


def _counted(counts: Counts, ran: Ran) -> Counts:
  return counts._replace(
    cells=counts.cells + ran.cells, fills=counts.fills + ran.fills
  )
