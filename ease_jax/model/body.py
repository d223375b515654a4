"""The body: a grid's blocks, embedding and readouts, bound together.

There is one class for all bodies. What makes one of them is its `Kind`: a
schedule, which is a pure function from a config to a grid, and a class of
streams where it carries states of its own.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ease_jax import sharding
from ease_jax.core.context import Context, seen
from ease_jax.core.costs import CostModel
from ease_jax.core.freeze import FREQUENT, GATE
from ease_jax.core.gates import GateShape
from ease_jax.core.grid import Cell, Grid, block_name, with_asides
from ease_jax.core.observations import Observation
from ease_jax.core.policies import ExitRule
from ease_jax.core.routers import ROUTERS, Route, Router, routed
from ease_jax.core.signals import SIGNALS, gate_of
from ease_jax.core.spec import BLOCK, ModelConfig
from ease_jax.model import adapters, layers, readout
from ease_jax.model.asking import check_rule
from ease_jax.model.exits import Exits
from ease_jax.model.frequent import of_frequent
from ease_jax.model.kind import Kind
from ease_jax.model.parameter import parameter
from ease_jax.model.prices import prices
from ease_jax.model.readout import Read
from ease_jax.model.screen import Screen
from ease_jax.model.sight import Places, places_of
from ease_jax.model.unembedding import Capped, Exact, Unembedding
from ease_jax.model.walk import (
  MEMORY,
  RUNNING,
  Layer,
  Leap,
  Run,
  State,
  Travel,
  walk,
)
from ease_jax.model.windows import plain_layer

EMBED_STD = 0.02


@functools.cache
def _grid(kind: Kind, cfg: ModelConfig) -> Grid:
  grid = kind.schedule(cfg)
  if cfg.routing is not None:
    grid = routed(grid, cfg.routing)
  return with_asides(grid) if BLOCK in cfg.readout_adapters else grid


class Body(nn.Module):
  """A model on the exit grid.

  `model.apply(variables, tokens)` returns all logits, for exploring;
  everything else goes through `walk` and `readout`.
  """

  cfg: ModelConfig
  kind: Kind

  @property
  def grid(self) -> Grid:
    """Its cells, by its schedule."""
    return _grid(self.kind, self.cfg)

  @property
  def elastic(self) -> bool:
    """Whether fewer runs make the whole way, in longer steps."""
    return self.kind.elastic(self.cfg)

  def check(self, rule: ExitRule) -> None:
    """Raises ConfigError if tokens of this model cannot exit like this."""
    check_rule(self.cfg, self.grid, rule)

  def setup(self):
    c = self.cfg
    std = c.dim**-0.5 if self.kind.unit_embedding else EMBED_STD
    init = nn.initializers.normal(std)
    shape = c.vocab_size, c.dim
    self.embed = parameter(self, 'embed', init, shape)
    if not c.tie_embeddings:
      self.unembed = parameter(self, 'unembed', init, shape)
    if c.positions:
      shape = c.positions, c.dim
      self.positions = self.param('positions', init, shape, jnp.float32)

    block = layers.block_class(c)
    per_run = self.kind.per_run(c)
    depth = self.kind.residual_layers(c)
    repeated = {cell.block for cell in self.grid.segment if not cell.aside}
    for i, cell in enumerate(self.grid.by_block):
      own = per_run.block if per_run and i in repeated else None
      place = c.block.attention.is_local(i), c.block.attention.window_of(i)
      lora_rank = c.lora_rank
      if cell.aside:
        place = False, 0  # it sees all there is
        lora_rank = 0
      setattr(self, block_name(cell), block(c, depth, own, *place, lora_rank))
    self.clock = per_run.clock(c) if per_run and per_run.clock else None

    for name in adapters.norm_names(c, self.grid.per_segment):
      setattr(self, name, layers.norm(c))
    for name in adapters.adapter_names(c, self.grid.per_segment):
      setattr(self, name, adapters.Adapter(c))
    shape = c.vocab_size, c.dim
    for name in adapters.head_names(c, self.grid.per_segment):
      setattr(self, name, self.param(name, init, shape, jnp.float32))
    self.screen = Screen(c) if c.screen_rank else None
    if c.frequent_tokens:
      shape = (c.frequent_tokens,)
      zeros = nn.initializers.zeros
      self.frequent = self.param(FREQUENT, zeros, shape, jnp.float32)
    self.drop = nn.Dropout(c.dropout)
    self.streams = self.kind.streams(c)

    shape = GateShape(c.dim, c.gate_dim, self.grid.num_readouts)
    self.gates = {
      name: self.param(f'{GATE}{name}', gate_of(name).init, shape)
      for name in c.gates
    }
    routed_cells = {cell.block: cell for cell in self.grid.cells if cell.router}
    self.routers = {
      str(block): self.param(f'router_{block}', init, c.dim)
      for block, cell in routed_cells.items()
      if (init := self.router(cell).init) is not None
    }

  def router(self, cell: Cell) -> Router:
    """The router of a cell: the config's, or the schedule's own."""
    if self.cfg.routing is None:
      return ROUTERS[str(cell.router)]
    router = self.cfg.routing.router(cell, self.grid)
    assert router is not None
    return router

  # ------------------------------------------------------------- the pieces

  def block(self, cell: Cell, run: Run | Leap) -> layers.InRun:
    """The block that a cell calls, as it is in a run."""
    block = getattr(self, block_name(self.grid.by_block[cell.block]))
    told = run if self.clock is None else self.clock(run)
    return layers.InRun(block, block.own(told))

  @jax.named_scope('embedding')
  def embed_tokens(
    self, token_BxT: jax.Array, position_BxT: jax.Array
  ) -> jax.Array:
    """Input states [B, T, D] in the compute type."""
    table_VxD = sharding.constrain(self.embed, sharding.TENSOR)
    x_BxTxD = table_VxD[token_BxT].astype(self.cfg.dtype)
    x_BxTxD = sharding.constrain(x_BxTxD, sharding.ROWS)
    unit = self.cfg.dim**0.5 if self.kind.unit_embedding else 1.0
    scale = unit * self.cfg.embedding_scale
    if scale != 1:
      x_BxTxD *= scale
    if not self.cfg.positions:
      return x_BxTxD
    place_BxTxD = self.positions[position_BxT].astype(self.cfg.dtype)
    return x_BxTxD + jnp.broadcast_to(place_BxTxD, x_BxTxD.shape)

  def start(
    self,
    token_BxT: jax.Array,
    position_BxT: jax.Array,
    key: jax.Array | None = None,
    deterministic: bool = True,
  ) -> State:
    """All streams before the first cell, each [B, T, D].

    Args:
      token_BxT: input tokens.
      position_BxT: their positions; B may be 1.
      key: of random first states; None = those of every evaluation, the same.
      deterministic: no dropout.
    """
    if key is None:
      key = jax.random.key(0)
    x_BxTxD = self.embed_tokens(token_BxT, position_BxT)
    x_BxTxD = self.drop(x_BxTxD, deterministic=deterministic)
    state = self.streams.start(x_BxTxD, position_BxT, key)

    routed_cells = [cell for cell in self.grid.first if cell.router]
    memory = max((self.router(c).memory for c in routed_cells), default=0)
    if memory:
      shape = *x_BxTxD.shape[:2], memory
      state = state | {MEMORY: jnp.zeros(shape, jnp.float32)}
    return state

  def combine(self, cell: Cell, state: State, run: Run) -> jax.Array:
    """The input of a cell that reads streams, [B, T, D]."""
    return self.streams.combine(cell, state, run)

  def written(self, cell: Cell, state: State, run: Run) -> State:
    """The streams that a cell writes, once it ran."""
    return self.streams.written(cell, state, run)

  @jax.named_scope('router')
  def route(self, cell: Cell, h_BxTxD: jax.Array, travel: Travel) -> Route:
    """Whom the router of a cell lets through."""
    router = self.router(cell)
    params = self.routers.get(str(cell.block))
    arguments = [params, h_BxTxD, travel.position_BxT, travel.key]
    if router.memory:
      arguments.append(travel.memory_BxTxM)
    return router.route(*arguments)

  @jax.named_scope('readout')
  def normed(self, k: int, h_BxTxD: jax.Array) -> jax.Array:
    """The state of readout `k` as its head sees it; the same in segments."""
    readouts = self.grid.per_segment
    r = k % readouts
    for name in adapters.adapter_names(self.cfg, readouts)[r : r + 1]:
      h_BxTxD = getattr(self, name)(h_BxTxD)
    names = adapters.norm_names(self.cfg, readouts)
    return getattr(self, names[r % len(names)])(h_BxTxD)

  def read(self, k: int, h_BxTxD: jax.Array) -> Read:
    """The state at readout `k`, and the same state normed."""
    return Read(h_BxTxD, self.normed(k, h_BxTxD))

  def unembedding(self, k: int = -1) -> Exact:
    """Of readout `k`, the last if none is named, [V, D] in the compute type."""
    own = self.embed if self.cfg.tie_embeddings else self.unembed
    readouts = self.grid.per_segment
    r = k % readouts
    for name in adapters.head_names(self.cfg, readouts)[r : r + 1]:
      own = getattr(self, name)
    w_VxD = own.astype(self.cfg.dtype)
    if not self.cfg.logit_cap:
      return w_VxD
    return Capped(w_VxD, self.cfg.logit_cap)

  def head(self, k: int = -1) -> Unembedding:
    """What logits of readout `k` are made with, but in losses."""
    exact = self.unembedding(k)
    return self.screen(exact) if self.screen else exact

  def gate(
    self, name: str, k: int | jax.Array, h_BxTxD: jax.Array
  ) -> jax.Array:
    """Outputs of a learned signal at readout `k`, [B, T, O] float32."""
    return gate_of(name).apply(self.gates[name], h_BxTxD, k)

  def gated(
    self, k: int, obs: Observation, read: Read, *names: str
  ) -> Observation:
    """An observation with what learned ones of some signals say, and tokens."""
    outputs = {
      name: self.gate(name, k, read.h_BxTxD)
      for name in names
      if SIGNALS[name].gate is not None
    }
    listed = {
      name: of_frequent(self.frequent, self.unembedding(k), read.normed_BxTxD)
      for name in names
      if SIGNALS[name].listed
    }
    return obs._replace(gate=outputs, named=obs.named | listed)

  def observe(
    self,
    k: int,
    read: Read,
    previous: Read | None,
    target_BxT: jax.Array,
    *names: str,
  ) -> Observation:
    """All that the named signals look at at readout `k`, each [B, T]."""
    with_kl = any(SIGNALS[name].compares_logits for name in names)
    before = self.head(k - 1) if with_kl else None
    obs = readout.observe(read, previous, target_BxT, self.head(k), before)
    return self.gated(k, obs, read, *names)

  # ------------------------------------------------------- whole windows

  def windows(self, places: Places, deterministic: bool = True) -> Layer:
    """Plain blocks over windows whose tokens stand there."""
    return plain_layer(self, places, deterministic)

  def through_coda(
    self, state: State, layer: Layer, travel: Travel
  ) -> jax.Array:
    """The state as a head sees it, before its norm, [B, T, D]."""
    walked = walk(self, self.grid.tail, state, None, layer=layer, travel=travel)
    return walked.state[RUNNING]

  def states(
    self, token_BxT: jax.Array, deterministic: bool = True
  ) -> list[jax.Array]:
    """State of every readout as its head sees it, before its norm, K arrays."""
    places = places_of(self.cfg, token_BxT)
    travel = Travel(places.position_BxT)
    layer = self.windows(places, deterministic)

    def read(
      k: int, state: State, exits: Exits | None
    ) -> tuple[Exits | None, jax.Array]:
      del k
      return exits, self.through_coda(state, layer, travel)

    walked = walk(
      self,
      self.grid.cells,
      self.start(token_BxT, travel.position_BxT, None, deterministic),
      None,
      layer=layer,
      travel=travel,
      read=read,
    )
    return list(walked.reads)

  def __call__(
    self, token_BxT: jax.Array, deterministic: bool = True
  ) -> jax.Array:
    """Logits of every readout, [K, B, T, V] float32."""
    shape = *token_BxT.shape, self.cfg.vocab_size
    heads = []

    for k, h_BxTxD in enumerate(self.states(token_BxT, deterministic)):
      normed_NxD = self.normed(k, h_BxTxD).reshape(-1, self.cfg.dim)
      logits_NxV = readout.logits(normed_NxD, self.head(k))
      heads.append(logits_NxV.reshape(shape))

    return jnp.stack(heads)

  def costs(self, context: float | Context, any_run: bool = False) -> CostModel:
    """What its pieces cost a token.

    Args:
      context: mean number of keys that it sees, or is multiplied with.
      any_run: in training, one program is any run, even if this is one alone.
    """
    return prices(self.cfg, self.kind, self.grid, self.router, context, any_run)

  def costs_of_windows(self, seq_len: int) -> CostModel:
    """What its pieces cost a token of a window of `seq_len` tokens."""
    return self.costs(seen(self.cfg, seq_len))


Params = Any  # tree of a body's parameters
