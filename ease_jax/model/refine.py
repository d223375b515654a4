"""Iterative refinement: the same layers again, with what they ended on.

  x = prelude(embedding),  h[s] = core(inject(x, z[s-1])),  z[s] = h[s],
  coda(h[S]);  one state per position

With no prelude and no coda, z added and detached, and a loss at each segment's
end, this is IRT. Recurrent-depth models have both, concatenate and project
(Geiping et al. 2502.05171); the projection that starts as the input alone, the
norm on z, the input as first state, and lanes are those of iso-depth scaling
(2604.21106). Parcae (2604.12946) lets z decay, in each of its numbers at a rate
of its own. Without an injection the core goes on from where it is, as where
layers in the middle of a stack are repeated.
"""

import dataclasses
import math
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ease_jax.checks import (
  Count,
  Depth,
  Layers,
  OneOf,
  ReadIf,
  check_fields,
  need,
)
from ease_jax.core.grid import Cell, Grid
from ease_jax.core.spec import ModelConfig
from ease_jax.model import stack
from ease_jax.model.body import EMBED_STD
from ease_jax.model.kind import Kind, Reach
from ease_jax.model.lanes import Lanes, lane_names
from ease_jax.model.layers import Linear, RMSNorm
from ease_jax.model.per_run import FILM, LOW_RANK, NOTHING, PER_RUN, PerRun
from ease_jax.model.streams import (
  FIRST_STATES,
  OF_INPUT,
  Input,
  Streams,
  copied,
  first_state,
  summed,
)
from ease_jax.model.walk import RUNNING, Run, State

INPUT = 'x'
CARRY = 'z'
LEARNED = 'learned'
NO_INJECTION = 'none'
LANES = 'lanes'
DECAY = 'decay'
INJECTING = ('add', 'concat', 'gate', DECAY, LANES)
INJECTIONS = (*INJECTING, NO_INJECTION)
# Of decay, whose rate A is 1 at first: exp(-step A) is the root of 1/5.
FIRST_STEP = math.log(5) / 2


@dataclasses.dataclass(frozen=True)
class RefineSpec:
  """Section `model.refine`.

  Attributes:
    prelude: layers of their own that run once, before the first segment.
    coda: the same, behind the segment that answers.
    inject: how z meets the input: add; concat, projected from both and at
      first the input alone; gate, a projected share of z; decay, z decays and
      the projected input is added; lanes, several sums of it and of all z,
      which each run mixes by numbers of its own; none, a segment goes on from
      where the one before it ended.
    carry_init: first state z[0]: zeros, fixed, random, learned, or the input.
    carry_norm: whether z is normed (RMSNorm) before it meets the input.
    input_norm: whether the input is, too, so that neither drowns the other.
    lanes: how many, each as wide as the model.
    per_run: what the core's layers have of their own in each run: none; film,
      a scaling of their branches by the run's time and step; lora, products
      of a low rank beside their matrices, but in the first run.
    rank: of these products.
    elastic: whether fewer runs make the whole way, in longer steps, as
      `loss.shortcut_weight` teaches them.
  """

  prelude: Layers
  coda: Layers
  inject: Annotated[str, OneOf(INJECTIONS)]
  carry_init: Annotated[
    str,
    OneOf((*FIRST_STATES, LEARNED, OF_INPUT)),
    ReadIf('inject', INJECTING),
  ]
  carry_norm: Annotated[bool, ReadIf('inject', INJECTING)]
  input_norm: Annotated[bool, ReadIf('inject', INJECTING)]
  lanes: Annotated[Depth, ReadIf('inject', (LANES,))]
  per_run: Annotated[str, OneOf(tuple(PER_RUN))]
  rank: Annotated[Count, ReadIf('per_run', (LOW_RANK,))]
  elastic: Annotated[bool, ReadIf('per_run', (FILM,))]

  def __post_init__(self):
    check_fields('model.refine', self)
    need(
      self.inject != LANES or self.carry_init == OF_INPUT,
      f'model.refine.carry_init={self.carry_init} does not fit inject=lanes, '
      f'which all begin as the input; use {OF_INPUT}',
    )
    need(
      not self.elastic or self.inject != LANES,
      'model.refine.elastic=True does not fit inject=lanes, whose numbers '
      'belong to runs and not to the way they make; use another one',
    )

  @property
  def projects(self) -> bool:
    """Whether the injection has a matrix of its own."""
    return self.inject in ('concat', 'gate', DECAY)

  @property
  def carries(self) -> bool:
    """Whether a segment sees its input beside a carried state."""
    return self.inject != NO_INJECTION

  @property
  def carried(self) -> tuple[str, ...]:
    """What a segment hands to the next one."""
    return lane_names(self.lanes) if self.inject == LANES else (CARRY,)

  @property
  def streams(self) -> tuple[str, ...]:
    """What a segment begins with."""
    return self.carried if self.inject == LANES else (INPUT, CARRY)


def schedule(cfg: ModelConfig) -> Grid:
  """Prelude, core and coda; `num_layers` are those of the core."""
  spec: RefineSpec = cfg.options
  need(
    spec.per_run == NOTHING or cfg.trained_runs > 1,
    f'model.refine.per_run={spec.per_run} has no effect with model.segments='
    f'{cfg.segments}: nothing runs again; use {NOTHING}, or raise '
    'model.segments',
  )
  prelude = [Cell(block) for block in range(spec.prelude)]
  core = [
    dataclasses.replace(cell, block=spec.prelude + cell.block)
    for cell in stack.layers(cfg)
  ]
  end = 1 + max(cell.block for cell in core)
  coda = [Cell(block) for block in range(end, end + spec.coda)]

  if spec.carries:
    core[0] = dataclasses.replace(core[0], reads=spec.streams)
    core[-1] = dataclasses.replace(core[-1], writes=spec.carried)
  if spec.carries and prelude:
    first_is_input = spec.carry_init == OF_INPUT
    streams = spec.streams if first_is_input else (INPUT,)
    prelude[-1] = dataclasses.replace(prelude[-1], writes=streams)

  return Grid(tuple(core), cfg.segments, tuple(prelude), tuple(coda))


def _input_alone(
  key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype
) -> jax.Array:
  """A projection of x, or of [x; z], that is x: [I | 0], transposed."""
  del key
  return jnp.eye(*shape, dtype=dtype)


class Carried(nn.Module):
  """The input x and the carried state z."""

  cfg: ModelConfig

  def setup(self):
    spec: RefineSpec = self.cfg.options
    if spec.carry_init == LEARNED:
      init = nn.initializers.normal(EMBED_STD)
      self.first = self.param('first', init, (self.cfg.dim,), jnp.float32)
    dtype = jnp.dtype(self.cfg.dtype)
    if spec.projects:
      init = None if spec.inject == 'gate' else _input_alone
      self.inject = Linear(self.cfg.dim, dtype, kernel_init=init)
    if spec.inject == DECAY:
      shape = (self.cfg.dim,)
      bias = nn.initializers.constant(math.log(math.expm1(FIRST_STEP)))
      zeros = nn.initializers.zeros
      self.log_rate = self.param('log_rate', zeros, shape, jnp.float32)
      self.step_bias = self.param('step_bias', bias, shape, jnp.float32)
    if spec.carry_norm:
      self.norm = RMSNorm(self.cfg)
    self.input = Input(self.cfg)

  def start(
    self, x_BxTxD: jax.Array, position_BxT: jax.Array, key: jax.Array
  ) -> State:
    if not self.cfg.options.carries:
      return {RUNNING: x_BxTxD}

    x_BxTxD = self.input.before(x_BxTxD)
    kind = self.cfg.options.carry_init
    if kind == LEARNED:
      first_1x1xD = self.first.astype(x_BxTxD.dtype)[None, None]
      z_BxTxD = jnp.broadcast_to(first_1x1xD, x_BxTxD.shape)
    elif kind == OF_INPUT:
      z_BxTxD = x_BxTxD
    else:
      if kind == 'fixed':
        key = jax.random.key(0)
      # As large as the embeddings that it is added to.
      z_BxTxD = first_state(kind, x_BxTxD, position_BxT, key, EMBED_STD)
    return {RUNNING: x_BxTxD, INPUT: x_BxTxD, CARRY: z_BxTxD}

  def combine(self, cell: Cell, state: State, run: Run) -> jax.Array:
    del run
    spec: RefineSpec = self.cfg.options
    if spec.carry_norm:
      state = state | {CARRY: self.norm(state[CARRY])}
    if spec.inject == 'add':
      return summed(cell, state)

    x_BxTxD = state[INPUT]
    z_BxTxD = state[CARRY]
    if spec.inject == DECAY:
      return self._decayed(x_BxTxD, z_BxTxD)
    projected = self.inject(jnp.concatenate([x_BxTxD, z_BxTxD], -1))
    if spec.inject == 'concat':
      return projected
    return x_BxTxD + nn.sigmoid(projected) * z_BxTxD

  def written(self, cell: Cell, state: State, run: Run) -> State:
    del run
    if cell.block < self.cfg.options.prelude:
      return self.input.behind(cell, state)
    return copied(cell, state)

  def _decayed(self, x_BxTxD: jax.Array, z_BxTxD: jax.Array) -> jax.Array:
    """exp(-step A) z + step (B x), with A and step > 0 (2604.12946)."""
    step_D = nn.softplus(self.step_bias)
    kept_D = jnp.exp(-step_D * jnp.exp(self.log_rate))
    kept_1x1xD = kept_D.astype(z_BxTxD.dtype)[None, None]
    step_1x1xD = step_D.astype(z_BxTxD.dtype)[None, None]
    return kept_1x1xD * z_BxTxD + step_1x1xD * self.inject(x_BxTxD)

  def flops(self, cell: Cell) -> float:
    del cell
    spec: RefineSpec = self.cfg.options
    if not spec.projects:
      return 0.0
    streams = 1 if spec.inject == DECAY else 2
    return 2 * streams * self.cfg.dim**2


def residual_layers(cfg: ModelConfig) -> int:
  """Those of one run, or of all where a run goes on from the one before."""
  spec: RefineSpec = cfg.options
  runs = 1 if spec.carries else cfg.segments
  return spec.prelude + runs * cfg.num_layers + spec.coda


def streams(cfg: ModelConfig, **module: Any) -> Streams:
  """The streams that a config asks for."""
  if cfg.options.inject == LANES:
    return Lanes(cfg, **module)
  return Carried(cfg, **module)


def _runs_differ(cfg: ModelConfig) -> bool:
  spec: RefineSpec = cfg.options
  return spec.inject == LANES or spec.per_run != NOTHING


def _carry_backprop(cfg: ModelConfig) -> int:
  return cfg.carry_backprop


def _cut(cfg: ModelConfig, runs: int) -> ModelConfig:
  return dataclasses.replace(cfg, carry_backprop=runs)


def _elastic(cfg: ModelConfig) -> bool:
  return cfg.options.elastic


def per_run(cfg: ModelConfig) -> PerRun | None:
  """What the core's layers have of their own in each run."""
  return PER_RUN[cfg.options.per_run]


REFINE = Kind(
  'refine',
  schedule,
  streams,
  RefineSpec,
  residual_layers=residual_layers,
  reach=Reach('model.carry_backprop', _carry_backprop, _cut),
  runs_differ=_runs_differ,
  per_run=per_run,
  elastic=_elastic,
  lists_blocks=True,
)
