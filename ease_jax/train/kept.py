"""What the forward pass of an update keeps for the backward one, in bytes.

Nothing is computed: cells and readouts are traced by their shapes, and what
their derivatives keep is counted (`residuals`).

What one of several devices keeps is what a narrower model keeps of fewer rows:
with its part of the heads, of the MLP and of the vocabulary.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ease_jax import model as model_lib
from ease_jax.core.grid import Cell, block_name
from ease_jax.core.objective import LossSpec
from ease_jax.model import Body, Params, adapters
from ease_jax.model import attention as attention_lib
from ease_jax.model.chunks import at_once
from ease_jax.model.linear_loss import (
  CROSS_ENTROPY,
  nothing_owed,
  owing_loss,
)
from ease_jax.model.sight import Places
from ease_jax.model.walk import RUNNING, State, Travel, walk
from ease_jax.train.freezing import Learned, held
from ease_jax.train.residuals import Kept, Shapes, kept
from ease_jax.train.stages import Stage


class Activations(NamedTuple):
  """Bytes that one device keeps in an update, beside parameters.

  Attributes:
    cell_L: of each cell of the prelude and of one segment, in order.
    carries: of states between segments.
    readout_R: of each readout of a segment, its coda included.
    tables: of the gradients of unembeddings: one by all readouts that share
      one, and those of own heads.
    anew: of the one block that is made anew in the backward pass.
    head: of the head that is at work: the logits that are held at once, their
      errors, the whole unembedding and its float32 gradient.
    tokens: not bytes: those whose logits are held at once.
  """

  cell_L: tuple[int, ...]
  carries: int
  readout_R: tuple[int, ...]
  tables: int
  anew: int
  head: int
  tokens: int

  @property
  def total(self) -> int:
    """All of them; none is thought to use the place of another."""
    readouts = sum(self.readout_R) + self.tables
    return sum(self.cell_L) + self.carries + readouts + self.anew + self.head


def narrowed(model: Body, parts: int) -> Body:
  """The model that one device computes with.

  Args:
    model: a body.
    parts: that heads, MLP and vocabulary are cut into; they divide them.
  """
  if parts == 1:
    return model
  cfg = model.cfg
  attention = dataclasses.replace(
    cfg.block.attention,
    num_heads=cfg.block.attention.num_heads // parts,
    num_kv_heads=cfg.num_kv_heads // parts,
    head_dim=cfg.head_dim,
  )
  mlp = dataclasses.replace(cfg.block.mlp, dim=cfg.block.mlp.dim // parts)
  block = dataclasses.replace(cfg.block, attention=attention, mlp=mlp)
  vocab_size = cfg.vocab_size // parts
  cfg = dataclasses.replace(cfg, block=block, vocab_size=vocab_size)
  return model_lib.build(cfg)


def activations(
  stage: Stage,
  params: Shapes,
  rows: int,
  length: int,
  learned: Learned,
  *,
  tensor: int = 1,
  fsdp: int = 1,
  memory: int | None = None,
) -> Activations:
  """What one device keeps in an update.

  Gates, a shortcut and a teacher are not counted.

  Args:
    stage: what is differentiated.
    params: shapes of the model's parameters, whole.
    rows: of a micro-batch, those of this device.
    length: T.
    learned: what gradients go through.
    tensor: parts that heads, MLP and vocabulary are cut into.
    fsdp: parts that the gradient of the unembedding is cut into, once a head
      is done.
    memory: bytes of the device; None = it is not known.
  """
  passes = learned.cell_passes
  model = narrowed(stage.model, tensor)
  if tensor > 1:
    params = _params_of(model)
  traced = _Traced(model, stage.loss, params, rows, length, memory)
  grid = stage.model.grid
  cells = (*grid.prelude, *grid.first)
  cell_L = [traced.cell(cell) if passes else 0 for cell in cells]
  anew = 0
  if stage.model.cfg.remat and passes:
    cfg = dataclasses.replace(model.cfg, remat=False)
    plain = dataclasses.replace(traced, model=model_lib.build(cfg))
    anew = max(plain.cell(cell) for cell in (*cells, *grid.tail))

  weight_RxS = zip(*stage.loss.weight_SxR, strict=True)
  readout_R = []
  formed = set[int]()  # heads whose gradient is; -1 = the shared one
  own_heads = len(adapters.head_names(model.cfg, grid.per_segment))
  for r, weight_S in enumerate(weight_RxS):
    is_last = r == grid.per_segment - 1
    products = learned.head_passes if is_last else learned.early_passes
    is_on = any(weight_S)
    readout_R.append(traced.readout(r) if is_on else 0)
    if is_on and products == 3:
      formed.add(r if r < own_heads else -1)

  return Activations(
    tuple(cell_L),
    traced.carries,
    tuple(readout_R),
    len(formed) * traced.gradient // fsdp,
    anew,
    traced.head,
    traced.at_once,
  )


def _params_of(model: Body) -> Shapes:
  tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  key = jax.eval_shape(functools.partial(jax.random.key, 0))
  return jax.eval_shape(model.init, key, tokens)['params']


@dataclasses.dataclass(frozen=True, eq=False)
class _Traced:
  """A model and the rows that are put through it, as shapes."""

  model: Body
  loss: LossSpec
  params: Shapes
  rows: int
  length: int
  memory: int | None

  @functools.cached_property
  def _state(self) -> Shapes:
    """The streams before the first cell."""
    tokens = jax.ShapeDtypeStruct((self.rows, self.length), jnp.int32)

    def start(params: Params, tokens: jax.Array) -> State:
      bound = self.model.bind({'params': params})
      position_1xT = attention_lib.positions(self.length)
      return bound.start(tokens, position_1xT)

    return jax.eval_shape(start, self.params, tokens)

  @property
  def _tokens(self) -> int:
    return self.rows * self.length

  @functools.cached_property
  def _found(self) -> dict[Any, Kept]:
    return {}

  def _likeness(self, cell: Cell) -> Any:
    """Equal for cells that keep as much."""
    attention = self.model.cfg.block.attention
    shapes = self.params[block_name(self._first(cell))]
    shapes = tuple(x.shape for x in jax.tree.leaves(shapes))
    place = attention.is_local(cell.block), attention.window_of(cell.block)
    plain = dataclasses.replace(cell, block=0, readout=None, number=0, run=0)
    return plain, place, shapes

  def _first(self, cell: Cell) -> Cell:
    return self.model.grid.by_block[cell.block]

  def _walked(self, params: Params, state: State, cells: Sequence[Cell]):
    """The streams behind some cells, and the body."""
    params = held(params, self.loss.freeze)
    key = jax.random.key(0)
    drop_key, route_key = jax.random.split(key)
    bound = self.model.bind({'params': params}, rngs={'dropout': drop_key})
    # Positions are kept once, and by all cells together.
    places = Places(attention_lib.positions(self.length))
    travel = Travel(places.position_BxT, route_key)
    layer = bound.windows(places, self.model.cfg.dropout == 0)
    walked = walk(bound, cells, state, None, layer=layer, travel=travel)
    return bound, walked

  def cell(self, cell: Cell) -> int:
    """Bytes that a cell keeps, the state that it is given among them."""

    def run(params: Params, state: State) -> tuple[State, Any]:
      _, walked = self._walked(params, state, (cell,))
      return walked.state, walked.router_losses

    likeness = self._likeness(cell)
    if likeness not in self._found:
      self._found[likeness] = kept(run, self.params, self._state)
    found = self._found[likeness]
    # What stands aside is given what the next cell is given, too.
    return found.made + (0 if cell.aside else found.given)

  def readout(self, r: int) -> int:
    """Bytes that a readout of a segment keeps."""
    is_last = r == self.model.grid.per_segment - 1
    share = 1.0 if is_last else self.loss.token_fraction
    num = max(round(share * self._tokens), 1)

    def read(params: Params, state: State) -> jax.Array:
      bound, walked = self._walked(params, state, self.model.grid.tail)
      normed = bound.normed(r, walked.state[RUNNING])
      normed_NxD = normed.reshape(-1, normed.shape[-1])[:num]
      target_N = jnp.zeros((num,), jnp.int32)
      weight_N = jnp.ones((num,), jnp.float32)
      w_VxD = bound.unembedding(r)
      owed = nothing_owed(w_VxD)
      loss, _ = owing_loss(
        CROSS_ENTROPY, normed_NxD, w_VxD, target_N, weight_N, 1.0, owed
      )
      return loss

    found = kept(read, self.params, self._state)
    # Its state is that of the next cell, where there is one.
    return found.made + (found.given if is_last else 0)

  @property
  def carries(self) -> int:
    """Bytes of all that segments hand on: of each, if gradients join them."""
    segments = self.loss.segments
    if segments == 1:
      return 0
    kept_at_once = 1
    if not (self.loss.per_segment or self.loss.one_by_one):
      kept_at_once = segments
    names = (RUNNING, *self.model.grid.carried)
    streams = sum(
      self._state[name].size * self._state[name].dtype.itemsize
      for name in names
    )
    marks = self._tokens * (1 + 4 + 4)  # done, alive, left: train.segment
    return kept_at_once * (streams + marks)

  @property
  def table(self) -> int:
    """Bytes of the unembedding, as it is multiplied with."""
    cfg = self.model.cfg
    return cfg.vocab_size * cfg.dim * jnp.dtype(cfg.dtype).itemsize

  @property
  def gradient(self) -> int:
    """Bytes of its float32 gradient."""
    return 4 * self.model.cfg.vocab_size * self.model.cfg.dim

  @property
  def at_once(self) -> int:
    """Tokens whose logits are held at once."""
    return at_once(self._tokens, self.model.cfg.vocab_size, self.memory)

  @property
  def head(self) -> int:
    """Bytes of the head that is at work."""
    cfg = self.model.cfg
    logits = self.at_once * cfg.vocab_size
    return 4 * 2 * logits + self.gradient + self.table
