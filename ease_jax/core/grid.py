"""The exit grid: the one idea every method of this package is a choice on.

A model runs *cells*, one call of one block each: a prelude once, a segment S
times, a coda once. Behind some cells stands a *readout*, where a prediction
may be read. The K readouts are ordered by cumulative cost and the last one
always answers. Training weighs the readouts, inference stops at the first one
that is confident enough, and compute is what the cells that ran cost.

Axis letters, used as name suffixes throughout the package: S segments,
L cells of the unrolled model, R readouts of a segment, K readouts in all,
B batch, T time, D width, H heads, G key/value heads, F MLP width,
V vocabulary, C cache length, N tokens of any arrangement.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from ease_jax.checks import need
from ease_jax.core.freeze import OWN_BLOCK


@dataclasses.dataclass(frozen=True)
class Cell:
  """One call of one block.

  Attributes:
    block: whose parameters it uses; cells of the same block are tied.
    reads: streams that are combined into its input; () means the state as the
      cell before left it.
    writes: streams that its output becomes, besides the state that goes on.
    readout: number of the readout behind it, or None. 0-based: in its segment
      where the cell belongs to `Grid.segment`, in the whole model where it
      comes from `Grid.cells`.
    grad: False makes its output a constant to the backward pass.
    router: name of the router that says which tokens run it; None means all.
    aside: whether its output is for its readout alone, and the next cell goes
      on from what this one was given.
    number: 0-based place among the cells of the unrolled model; the grid
      gives it.
    run: 0-based segment in which it runs; the grid gives it.
  """

  block: int
  reads: tuple[str, ...] = ()
  writes: tuple[str, ...] = ()
  readout: int | None = None
  grad: bool = True
  router: str | None = None
  aside: bool = False
  number: int = 0
  run: int = 0


@dataclasses.dataclass(frozen=True)
class Grid:
  """The cells of a model: a prelude, S runs of one segment, a coda.

  Attributes:
    segment: the cells of one segment. Its readouts are numbered from 0, and
      one stands behind its last cell.
    segments: S.
    prelude: cells that run once, before the first segment.
    coda: cells that run once for every token, on the state that answers,
      before its head.
  """

  segment: tuple[Cell, ...]
  segments: int = 1
  prelude: tuple[Cell, ...] = ()
  coda: tuple[Cell, ...] = ()

  def __post_init__(self):
    need(len(self.segment) > 0, 'a grid needs at least one cell in a segment')
    need(self.segments >= 1, f'a grid has {self.segments} segments; use 1 up')

    outside = (*self.prelude, *self.coda)
    need(
      all(cell.readout is None for cell in outside),
      'a readout stands in a prelude or coda; only a segment can be read out',
    )

    need(
      all(cell.router is None for cell in outside),
      'a router stands in a prelude or coda; only cells of a segment have one',
    )
    for block in {cell.block for cell in self.segment}:
      names = {cell.router for cell in self.segment if cell.block == block}
      need(
        len(names - {None}) <= 1,
        f'block {block} has the routers {sorted(map(str, names))}; a block has '
        'one at most',
      )

    numbers = [c.readout for c in self.segment if c.readout is not None]
    need(
      numbers == list(range(len(numbers)))
      and self.segment[-1].readout is not None,
      f'the readouts of a segment are numbered {numbers}; number them from 0 '
      'and let one stand behind the last cell, which always answers',
    )

    blocks = {cell.block for cell in (*outside, *self.segment)}
    need(
      blocks == set(range(len(blocks))),
      f'the cells use the blocks {sorted(blocks)}; number them from 0 without '
      'a gap',
    )

  @functools.cached_property
  def cells(self) -> tuple[Cell, ...]:
    """Prelude and all segments in the order they run, numbered throughout."""
    unrolled = list(self.prelude)
    for run in range(self.segments):
      for cell in self.segment:
        readout = cell.readout
        if readout is not None:
          readout += run * self.per_segment
        unrolled.append(dataclasses.replace(cell, readout=readout, run=run))
    return _numbered(unrolled, 0)

  @functools.cached_property
  def tail(self) -> tuple[Cell, ...]:
    """The coda's cells, numbered after all others."""
    return _numbered(self.coda, len(self.cells))

  @functools.cached_property
  def head(self) -> tuple[Cell, ...]:
    """The prelude's cells, numbered from 0."""
    return self.cells[: len(self.prelude)]

  @property
  def first(self) -> tuple[Cell, ...]:
    """The cells of the first segment, numbered as in `cells`."""
    start = len(self.prelude)
    return self.cells[start : start + len(self.segment)]

  @property
  def num_cells(self) -> int:
    """All cells, those aside and the coda's among them."""
    return len(self.cells) + len(self.coda)

  @property
  def depth(self) -> int:
    """Cells that a token runs without exits."""
    return self.depth_K[-1]

  @property
  def per_segment(self) -> int:
    """Readouts of one segment, R."""
    return sum(cell.readout is not None for cell in self.segment)

  @property
  def num_readouts(self) -> int:
    """Readouts of the whole model, K."""
    return self.segments * self.per_segment

  @property
  def num_blocks(self) -> int:
    """Blocks with parameters of their own."""
    return 1 + max(c.block for c in (*self.prelude, *self.segment, *self.coda))

  @functools.cached_property
  def by_block(self) -> tuple[Cell, ...]:
    """The first cell of each block, as prelude, segment or coda has it."""
    first: dict[int, Cell] = {}
    for cell in (*self.prelude, *self.segment, *self.coda):
      first.setdefault(cell.block, cell)
    return tuple(first[block] for block in range(self.num_blocks))

  @functools.cached_property
  def reach_K(self) -> tuple[int, ...]:
    """Cells before and at each readout; the coda is not among them."""
    return tuple(
      cell.number + 1 for cell in self.cells if cell.readout is not None
    )

  @functools.cached_property
  def depth_K(self) -> tuple[int, ...]:
    """Layers behind a token that is answered at each readout; none aside."""
    on_the_way_L = [not cell.aside for cell in self.cells]
    return tuple(
      sum(on_the_way_L[:reach]) + len(self.coda) for reach in self.reach_K
    )

  @functools.cached_property
  def is_last_K(self) -> tuple[bool, ...]:
    """Whether each readout is the last of its segment."""
    last = self.per_segment - 1
    return tuple(k % self.per_segment == last for k in range(self.num_readouts))

  @functools.cached_property
  def names_K(self) -> tuple[tuple[int, int], ...]:
    """(segment, layer of it) of each readout, both counted from 1."""
    layers = 0
    places = []
    for cell in self.segment:
      layers += not cell.aside
      if cell.readout is not None:
        places.append(layers)
    numbers = range(1, self.segments + 1)
    return tuple((number, place) for number in numbers for place in places)

  @functools.cached_property
  def carried(self) -> tuple[str, ...]:
    """Streams that a segment hands to the next one besides its last state."""
    written = [name for cell in self.segment for name in cell.writes]
    return tuple(dict.fromkeys(written))

  @property
  def has_asides(self) -> bool:
    """Whether some readouts have cells of their own."""
    return any(cell.aside for cell in self.segment)

  @property
  def routed(self) -> bool:
    """Whether some cell lets only some tokens through."""
    return any(cell.router for cell in self.segment)

  def between(self, start: int | None, stop: int) -> tuple[Cell, ...]:
    """The cells after one readout up to another, as in `cells`.

    Args:
      start: the readout whose state is gone on from; None = the input.
      stop: a later readout.
    """
    first = 0 if start is None else self.reach_K[start]
    return self.cells[first : self.reach_K[stop]]


def with_asides(grid: Grid) -> Grid:
  """A grid whose readouts have a cell each, but for the last of a segment.

  What such a cell makes of a state is read there, and nobody goes on from it
  (Balcony, Jamialahmadi et al. 2503.05005).
  """
  *others, last = grid.segment
  segment: list[Cell] = []
  block = grid.num_blocks
  for cell in others:
    segment.append(dataclasses.replace(cell, readout=None))
    if cell.readout is not None:
      segment.append(Cell(block, readout=cell.readout, aside=True))
      block += 1
  return dataclasses.replace(grid, segment=(*segment, last))


def block_name(cell: Cell) -> str:
  """The name of a block's parameters, by the first cell that runs it."""
  return f'{OWN_BLOCK}{cell.readout}' if cell.aside else f'layer_{cell.block}'


def _numbered(cells, first: int) -> tuple[Cell, ...]:
  return tuple(
    dataclasses.replace(cell, number=number)
    for number, cell in enumerate(cells, first)
  )


def first_exit(score_KxBxT: jax.Array, threshold_K: jax.Array) -> jax.Array:
  """Index of the first readout whose score reaches its threshold.

  Thresholds are exact: +inf never exits, whatever the score; -inf exits at
  once, even on a score of -inf. The last threshold is ignored, because the
  last readout always answers.

  Args:
    score_KxBxT: confidence of each readout; higher means exit.
    threshold_K: one threshold per readout.

  Returns:
    exit_BxT, int32 in [0, K).
  """
  threshold_Kx1x1 = jnp.asarray(threshold_K)[:, None, None]
  hit_KxBxT = reaches(score_KxBxT, threshold_Kx1x1).at[-1].set(True)
  return jnp.argmax(hit_KxBxT, axis=0).astype(jnp.int32)


def reaches(score: jax.Array, threshold: jax.Array) -> jax.Array:
  """The exit rule itself: score >= threshold, and +inf means never."""
  return (score >= threshold) & (threshold < jnp.inf)


def expected_compute(
  exit_BxT: jax.Array, cost_K: jax.Array, token_mask_BxT: jax.Array
) -> jax.Array:
  """Mean cost per unmasked token, in the unit of `cost_K`.

  Args:
    exit_BxT: the readout that answers each token.
    cost_K: cost of being answered at each readout.
    token_mask_BxT: 1 for tokens that count, 0 for padding.
  """
  count_K = exit_counts(exit_BxT, len(cost_K), token_mask_BxT)
  return count_K @ jnp.asarray(cost_K) / count_K.sum()


def exit_counts(
  exit_BxT: jax.Array, num_readouts: int, token_mask_BxT: jax.Array
) -> jax.Array:
  """Unmasked tokens that stopped at each readout, [K] float32."""
  k_Kx1x1 = jnp.arange(num_readouts)[:, None, None]
  hit_KxBxT = jnp.asarray(exit_BxT)[None] == k_Kx1x1
  return (hit_KxBxT * jnp.asarray(token_mask_BxT)[None]).sum((1, 2))
