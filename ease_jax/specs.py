"""All specs of a config, built at once: what makes a config invalid.

Each spec reads its own section and checks itself; what crosses sections is
checked here. Nobody below `run` sees a config.
"""

import dataclasses

import numpy as np

from ease_jax import config as config_lib
from ease_jax import model as model_lib
from ease_jax import unread
from ease_jax.checks import (
  Seed,
  check_value,
  declared,
  need,
  one_of,
  plain,
)
from ease_jax.config import Config
from ease_jax.core.freeze import MODEL
from ease_jax.core.gating import GateSpec
from ease_jax.core.grid import Grid
from ease_jax.core.objective import LossSpec
from ease_jax.core.policies import POLICIES, ExitRule
from ease_jax.core.signals import SIGNALS
from ease_jax.core.spec import ModelConfig
from ease_jax.data.spec import DataSpec
from ease_jax.data.task import TASKS
from ease_jax.decode.options import GenerateSpec
from ease_jax.evaluate.sweep import SweepSpec
from ease_jax.model import Body, Params
from ease_jax.sharding import FSDP, ROWS, TENSOR, MeshSpec, check_parts
from ease_jax.train import clashes, freezing, once
from ease_jax.train.counting import Counting
from ease_jax.train.optimizer import OptimizerSpec
from ease_jax.train.paths import leaves
from ease_jax.train.spec import TrainSpec
from ease_jax.train.stages import Stage
from ease_jax.train.targets import TARGETS
from ease_jax.train.update import abstract_state

LEARNED = declared(GateSpec)
ANY_TOKEN = 0  # as `eos_id` where a config is only counted


@dataclasses.dataclass(frozen=True)
class Specs:
  """What a config says, checked.

  Attributes:
    seed: of initialisation, dropout and data order.
    data: section `data`.
    model: section `model`.
    loss: section `loss`.
    optimizer: section `optimizer`.
    train: section `train`.
    sweep: sections `exit` and `evaluate`.
    generate: section `generate`.
    mesh: section `mesh`.
  """

  seed: int
  data: DataSpec
  model: ModelConfig
  loss: LossSpec
  optimizer: OptimizerSpec
  train: TrainSpec
  sweep: SweepSpec
  generate: GenerateSpec
  mesh: MeshSpec

  @property
  def body(self) -> Body:
    """The model."""
    return model_lib.build(self.model)

  @property
  def shapes(self) -> Params:
    """Shapes of the parameters."""
    return abstract_state(self.body, self.optimizer).params

  @property
  def counting(self) -> Counting:
    """What counts the FLOPs of its training."""
    return Counting(
      self.train,
      self.body,
      self.loss,
      self.optimizer,
      self.data.seq_len,
      self.seed,
    )

  @property
  def train_flops(self) -> float:
    """Training FLOPs of one token, its share of the optimizer's included.

    What another run takes to teach comes on top: `teacher.flops`; so does
    what is done once. A model that was imported took none here.
    """
    return self.counting.mean if self.train.steps else 0.0

  @property
  def once_flops(self) -> float:
    """FLOPs of what is fitted and of states that are kept, on top of that."""
    return once.flops(self.train, self.body, self.data.seq_len)

  def flops_of(self, now: Stage) -> float:
    """Of one token forward and backward in an update of a stage."""
    return self.counting.of(now)


def from_config(
  config: Config, vocab_size: int = 1, eos_id: int | None = None
) -> Specs:
  """The specs of a config.

  Args:
    config: of a run.
    vocab_size: V, once the data are known; what a config says can be checked
      without it.
    eos_id: the token between documents, known then; None = there is none.

  Raises:
    ConfigError: it cannot run; one line with the field and the fix.
  """
  unread.check_complete(config, config_lib.base(), 'config')
  check_value('seed', config.seed, Seed)
  data = DataSpec.from_config(config.data)
  one_of('data.task', data.task, TASKS)
  for name in ('gates', 'gate_dim'):  # what models are built with, too
    check_value(f'loss.{name}', plain(config.loss)[name], LEARNED[name])
  model = model_lib.model_config(
    config.model,
    vocab_size,
    gates=config.loss.gates if config.loss.gate_weight else (),
    gate_dim=config.loss.gate_dim,
    attention=TASKS[data.task].attention,
    document_start=data.document_start(
      ANY_TOKEN if vocab_size == 1 else eos_id
    ),
  )
  grid = model_lib.build(model).grid
  train = TrainSpec.from_config(config.train)
  freeze = train.freezing(grid.per_segment)
  loss = LossSpec.from_config(
    config.loss,
    grid,
    per_segment=train.per_segment,
    freeze=freeze,
    carry_backprop=model.carry_backprop,
  )
  optimizer_spec = OptimizerSpec.from_config(
    config.optimizer,
    num_blocks=grid.num_blocks,
    steps=train.steps,
    updates_per_step=train.updates_per_step(grid.segments),
    # What is never updated needs no moments.
    freeze=MODEL if train.imported else freeze,
  )
  specs = Specs(
    seed=config.seed,
    data=data,
    model=model,
    loss=loss,
    optimizer=optimizer_spec,
    train=train,
    sweep=SweepSpec.from_config(config),
    generate=GenerateSpec.from_config(config.generate),
    mesh=MeshSpec.from_config(config.mesh),
  )
  _check_together(specs, grid)
  unread.check_unread(config)
  return specs


def on_devices(specs: Specs, num_devices: int) -> Specs:
  """The same specs with a mesh of so many devices, on which all can be cut.

  Raises:
    ConfigError: something cannot.
  """
  mesh = specs.mesh.on(num_devices)
  train = specs.train
  check_parts('train.batch_size', train.batch_size, mesh, *ROWS)
  need(
    train.batch_size % (train.accumulate * mesh.rows) == 0,
    f'train.batch_size={train.batch_size} / train.accumulate='
    f'{train.accumulate} is not divisible by mesh.data={mesh.data} times '
    f'mesh.fsdp={mesh.fsdp}; change one of them',
  )
  check_parts('evaluate.batch_size', specs.sweep.batch_size, mesh, *ROWS)

  heads = specs.model.block.attention
  check_parts('model.dim', specs.model.dim, mesh, FSDP)
  for name in ('num_heads', 'num_kv_heads'):
    field = f'model.block.attention.{name}'
    check_parts(field, getattr(heads, name), mesh, TENSOR)
  check_parts('model.block.mlp.dim', specs.model.block.mlp.dim, mesh, TENSOR)
  if specs.model.vocab_size > 1:  # known once the data are
    field = 'the vocabulary of data.tokenizer'
    check_parts(field, specs.model.vocab_size, mesh, TENSOR)
  return dataclasses.replace(specs, mesh=mesh)


def _check_together(specs: Specs, grid: Grid) -> None:
  """What no section can know alone."""
  one_of('loss.target', specs.loss.teaching.target, TARGETS)
  clashes.check(specs.train, specs.loss, specs.body)
  _check_top_k(specs)
  if specs.train.freeze != 'nothing':
    freezing.check(
      specs.train.freeze,
      specs.loss.freeze,
      leaves(specs.shapes),
      trains=specs.train.steps > 0,
    )
  _check_positions(specs)
  _check_timed(specs)
  need(
    not (specs.loss.frozen and specs.loss.teaching.on),
    f'loss.target={specs.loss.teaching.target} has no effect with '
    'train.freeze=model: no readout learns; use loss.target=label',
  )
  _check_max_compute(specs, grid)
  specs.generate.check(specs.body)

  gating = specs.loss.gating
  for name in specs.sweep.signals:
    need(
      SIGNALS[name].gate is None or name in gating.learned,
      f'exit.signals names {name}, which loss.gates={gating.gates} with '
      f'loss.gate_weight={gating.gate_weight} does not learn; add it there and '
      'train, learn it on a finished run as configs/gates.py does, or use '
      'another signal',
    )
  for name in specs.sweep.policies:
    POLICIES[name].check(grid)
    need(
      not (grid.has_asides and POLICIES[name].runs_on),
      f'exit.policies names {name}, which makes up cells later, and '
      f'model.readout_adapters={specs.model.readout_adapters} has a block, of '
      'which that is not known; leave it out',
    )
    for signal in specs.sweep.signals:
      specs.body.check(ExitRule(SIGNALS[signal], POLICIES[name]))
  need(
    not (specs.loss.exit_threshold and grid.coda),
    f'loss.exit_threshold={specs.loss.exit_threshold} looks at logits, which '
    f'model.body={specs.model.body} has behind its coda only; use 0',
  )

  need(
    specs.sweep.segments == 0 or grid.segments > 1,
    f'evaluate.segments={specs.sweep.segments} does not fit model.segments='
    f'{grid.segments}, which has nothing to run again; use 0',
  )


def _check_max_compute(specs: Specs, grid: Grid) -> None:
  """The limit is not below what the earliest exit costs."""
  limit = specs.sweep.max_compute
  if not limit or grid.routed:  # what routers spare is not known before
    return
  prices = specs.body.costs_of_windows(specs.data.seq_len)
  policy = POLICIES[specs.sweep.policy]
  only_first_K = np.arange(grid.num_readouts) == 0
  least = min(
    prices.exit_K(ExitRule(SIGNALS[signal], policy), only_first_K)[0]
    for signal in specs.sweep.signals
  )
  need(
    limit >= prices.relative(least),
    f'exit.max_compute={limit} is below {prices.relative(least):.3f}, which a '
    'token costs that stops at the first readout; raise it, or name earlier '
    'model.readouts',
  )


def _check_positions(specs: Specs) -> None:
  """Every token of a window has a learned position, where they are learned."""
  num = specs.model.positions
  length = specs.data.seq_len
  need(
    num == 0 or length <= num,
    f'data.seq_len={length} is more than model.positions={num}, of which each '
    'token has one; lower it, or raise that',
  )


def _check_timed(specs: Specs) -> None:
  """The clock decodes whole windows, each as one text."""
  tokens = specs.sweep.speed_tokens
  need(
    not tokens or specs.model.document_start is None,
    f'evaluate.speed_tokens={tokens} decodes windows as one text each, and '
    f'with data.documents={specs.data.documents} they are several; use 0',
  )


def _check_top_k(specs: Specs) -> None:
  """Fewer tokens than there are; V is known once the data are."""
  top_k = specs.loss.teaching.teacher_top_k
  vocab_size = specs.model.vocab_size
  need(
    vocab_size == 1 or top_k < vocab_size,
    f'loss.teacher_top_k={top_k} of a vocabulary of {vocab_size} leaves none '
    'out; lower it, or use 0 for all',
  )


def body_of(config: Config, vocab_size: int, eos_id: int | None = None) -> Body:
  """The model of a config, its parameters not yet made.

  Args:
    config: of a run.
    vocab_size: V.
    eos_id: the token between documents; None = there is none.
  """
  return model_lib.build(from_config(config, vocab_size, eos_id).model)
