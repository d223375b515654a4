"""Mixture-of-Recursions (Bae et al. 2507.10524): tokens choose how often.

  h <- h + g (f(h) - h) for those who run f once more, h for all others

The same layers f run N times. Who has left a run does not come back: who may
run s + 1 are those who ran s. At the first layer of a run it is decided who
takes part; its other layers follow, and g, of the same decision, multiplies in
all of them, in training and in inference. Nobody sees a token in a run that it
does not take part in (the paper's recursion-wise caching).

Expert choice decides anew before each run: in training the k of a row with the
highest r among those who ran before, g = sigmoid(r); elsewhere those whose own
r is above 0, which has learned to say who was chosen. Token choice decides
once, before the first run that not all take: g = max softmax(depths), for the
likeliest depth; the mean over a row is pulled to the shares of the capacities.

What differs from the paper: the router sees the state at unit size; g stands
at each layer of a run, not once around it; a run of capacity 1 has no router
and no gate.
"""

import dataclasses
import functools
import math
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.checks import NotNegative, OneOf, Range, check_fields, need
from ease_jax.core.grid import Cell, Grid
from ease_jax.core.routers import (
  Route,
  Router,
  Share,
  Taken,
  highest,
  times,
  undecided,
)
from ease_jax.core.scaling import unit_size

NAME = 'mor'
EXPERT = 'expert'
TOKEN = 'token'
CHOICES = (EXPERT, TOKEN)
MEMORY = 2  # the last run that a token takes part in, and the gate of it
Capacity = Annotated[float, Range(0, 1, above=True)]
Params = dict[str, dict[str, jax.Array]]


class Run(NamedTuple):
  """A run of the repeated layers, as one of its cells sees it.

  Attributes:
    number: of the run, from 1.
    first: the first run that not all tokens take part in.
    last: N.
    capacity: share of a row's tokens that take part in training.
    decides: whether the cell is the first of the run.
  """

  number: int
  first: int
  last: int
  capacity: float
  decides: bool


@dataclasses.dataclass(frozen=True)
class MoRSpec:
  """Section `model.mor`: the routing of Mixture-of-Recursions.

  Attributes:
    capacities: share of a row's tokens that take part in each run in training,
      rounded up to whole tokens; () = N/N, (N-1)/N, ..., 1/N.
    choice: expert, a decision before each run; or token, one for all.
    loss_weight: of what the router learns.
  """

  capacities: tuple[Capacity, ...]
  choice: Annotated[str, OneOf(CHOICES)]
  loss_weight: NotNegative

  def __post_init__(self):
    check_fields(f'model.{NAME}', self)
    for before, after in zip(self.capacities, self.capacities[1:]):
      need(
        after <= before,
        f'model.{NAME}.capacities={self.capacities} grow from {before:g} to '
        f'{after:g}, but who has left a run does not come back; let them fall',
      )

  @property
  def field(self) -> str:
    """The field of the config that asks for it, and its value."""
    return f'model.router={NAME}'

  def router(self, cell: Cell, grid: Grid) -> Router | None:
    """The router of a cell; None = all tokens run it."""
    number_L = runs(grid)
    num = max(number_L)
    need(
      num > 1,
      f'{self.field} needs layers that run again within a segment, in the same '
      'order; use model.body=cycle with model.cycle.times=2 or more',
    )
    need(
      len(self.capacities) in (0, num),
      f'model.{NAME}.capacities={self.capacities} are {len(self.capacities)} '
      f'for {num} runs of the same layers; give one for each, or () for equal '
      'steps',
    )
    capacity_N = self.capacities or tuple(
      (num - run) / num for run in range(num)
    )
    place = (cell.number - len(grid.head)) % len(grid.segment)
    number = number_L[place]
    if number == 0 or capacity_N[number - 1] == 1:
      return None
    full = capacity_N.count(1)
    run = Run(
      number,
      full + 1,
      num,
      capacity_N[number - 1],
      number_L.index(number) == place,
    )
    return self._router(run, capacity_N)

  def _router(self, run: Run, capacity_N: tuple[float, ...]) -> Router:
    share = Share(tokens=run.capacity)
    if not run.decides:
      follow = functools.partial(_follow, run)
      return Router(NAME, None, follow, _nothing, share, MEMORY)

    num = run.last - run.first + 1
    if self.choice == EXPERT:
      outputs = num
      asked = 1
      route = functools.partial(_expert, self.loss_weight, run)
    else:
      outputs = num + 1
      asked = outputs if run.number == run.first else 0
      share_O = _shares(capacity_N[run.first - 1 :])
      route = functools.partial(_token, self.loss_weight, share_O, run)
    return Router(
      NAME,
      functools.partial(_init, outputs),
      route,
      functools.partial(_flops, asked),
      share,
      MEMORY,
    )


def runs(grid: Grid) -> tuple[int, ...]:
  """Which run of its block each cell of a segment is, from 1.

  0 for a block that is called once; all 0 where calls do not repeat in order.
  """
  blocks = [cell.block for cell in grid.segment]
  number_L = tuple(
    blocks[: i + 1].count(block) if blocks.count(block) > 1 else 0
    for i, block in enumerate(blocks)
  )
  orders = {
    tuple(b for b, number in zip(blocks, number_L) if number == run)
    for run in range(1, max(number_L) + 1)
  }
  in_order = len(orders) == 1
  return number_L if in_order else (0,) * len(blocks)


def _shares(capacity_R: tuple[float, ...]) -> tuple[float, ...]:
  """Shares of the tokens that stop before each run, and after the last."""
  ends = (1.0, *capacity_R, 0.0)
  return tuple(before - after for before, after in zip(ends, ends[1:]))


def _init(outputs: int, key: jax.Array, dim: int) -> Params:
  """Of unit size: see `times`."""
  return {'router': {'kernel': jax.random.normal(key, (dim, outputs))}}


def _flops(outputs: int, dim: int) -> float:
  return 2.0 * dim * outputs


def _nothing(dim: int) -> float:
  del dim
  return 0.0


def _expert(
  loss_weight: float,
  run: Run,
  params: Params,
  h_BxTxD: jax.Array,
  position_BxT: jax.Array,
  key: jax.Array | None,
  memory_BxTx2: jax.Array,
) -> Route:
  del position_BxT
  column = run.number - run.first
  kernel_Dx1 = params['router']['kernel'][:, column : column + 1]
  r_BxT = times(unit_size(h_BxTxD), kernel_Dx1)[..., 0]
  gate_BxT = jax.nn.sigmoid(r_BxT)
  may_BxT = jnp.ones(r_BxT.shape, bool)
  if column:
    may_BxT = memory_BxTx2[..., 0] >= run.number - 1

  if key is None:
    return _decided(run, may_BxT & (r_BxT > 0), gate_BxT, memory_BxTx2)
  score_BxT = jnp.where(may_BxT, r_BxT, -jnp.inf)
  token_BxM, chosen_BxT = highest(score_BxT, run.capacity)
  runs_BxT = chosen_BxT & may_BxT
  loss_BxT = undecided(r_BxT, runs_BxT) * may_BxT
  route = _decided(run, runs_BxT, gate_BxT, memory_BxTx2)
  return route._replace(
    loss_BxT=loss_weight * loss_BxT, taken=_taken(token_BxM, runs_BxT)
  )


def _decided(
  run: Run, runs_BxT: jax.Array, gate_BxT: jax.Array, memory_BxTx2: jax.Array
) -> Route:
  """The route of those who take part, and what is remembered of it."""
  last_BxT = jnp.where(runs_BxT, run.number, memory_BxTx2[..., 0])
  memory_BxTx2 = jnp.stack([last_BxT, gate_BxT], -1).astype(jnp.float32)
  return Route(runs_BxT, gate_BxT, memory_BxTxM=memory_BxTx2)


def _token(
  loss_weight: float,
  share_O: tuple[float, ...],
  run: Run,
  params: Params,
  h_BxTxD: jax.Array,
  position_BxT: jax.Array,
  key: jax.Array | None,
  memory_BxTx2: jax.Array,
) -> Route:
  del position_BxT
  loss_BxT = None
  if run.number == run.first:
    says_BxTxO = times(unit_size(h_BxTxD), params['router']['kernel'])
    p_BxTxO = jax.nn.softmax(says_BxTxO)
    last_BxT = run.first - 1 + jnp.argmax(p_BxTxO, -1)
    memory_BxTx2 = jnp.stack([last_BxT, p_BxTxO.max(-1)], -1)
    memory_BxTx2 = memory_BxTx2.astype(jnp.float32)
    loss_BxT = loss_weight * _unbalanced(p_BxTxO, share_O)

  wants_BxT, gate_BxT = _remembered(run, memory_BxTx2)
  if key is None:
    return Route(wants_BxT, gate_BxT, memory_BxTxM=memory_BxTx2)

  score_BxT = jnp.where(wants_BxT, gate_BxT, -jnp.inf)
  token_BxM, chosen_BxT = highest(score_BxT, run.capacity)
  runs_BxT = wants_BxT & chosen_BxT
  # Who finds no room has left.
  turned_away_BxT = wants_BxT & ~chosen_BxT
  last_BxT = jnp.where(turned_away_BxT, run.number - 1, memory_BxTx2[..., 0])
  return Route(
    runs_BxT,
    gate_BxT,
    loss_BxT,
    _taken(token_BxM, runs_BxT),
    memory_BxTx2.at[..., 0].set(last_BxT),
  )


def _follow(
  run: Run,
  params: None,
  h_BxTxD: jax.Array,
  position_BxT: jax.Array,
  key: jax.Array | None,
  memory_BxTx2: jax.Array,
) -> Route:
  """The other layers of a run: who took part in the first one."""
  del params, h_BxTxD, position_BxT
  runs_BxT, gate_BxT = _remembered(run, memory_BxTx2)
  if key is None:
    return Route(runs_BxT, gate_BxT)
  token_BxM, _ = highest(runs_BxT.astype(jnp.float32), run.capacity)
  return Route(runs_BxT, gate_BxT, taken=_taken(token_BxM, runs_BxT))


def _remembered(
  run: Run, memory_BxTx2: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Who takes part in a run, and their gates."""
  return memory_BxTx2[..., 0] >= run.number, memory_BxTx2[..., 1]


def _taken(token_BxM: jax.Array, runs_BxT: jax.Array) -> Taken:
  """Places for all who may run; those left over are seen by nobody."""
  seen_BxM = jnp.take_along_axis(runs_BxT, token_BxM, 1)
  return Taken(token_NxM=token_BxM, seen_NxM=seen_BxM)


def _unbalanced(p_BxTxO: jax.Array, share_O: tuple[float, ...]) -> jax.Array:
  """How far the expected depths of a row are from the shares, as a KL."""
  log_p_BxO = jnp.log(p_BxTxO.mean(1))
  terms = [
    share * (math.log(share) - log_p_BxO[:, depth])
    for depth, share in enumerate(share_O)
    if share > 0
  ]
  total_B = jnp.stack(terms).sum(0)
  return jnp.broadcast_to(total_B[:, None], p_BxTxO.shape[:2])
