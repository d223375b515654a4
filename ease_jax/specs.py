"""All specs of a config, built at once: what makes a config invalid.

Each spec reads its own section and checks itself; what crosses sections is
checked here. Nobody below `run` sees a config.
"""

import collections
import dataclasses

import numpy as np

from ease_jax import config as config_lib
from ease_jax import model as model_lib
from ease_jax import unread
from ease_jax.checks import (
  MOST_DEPTH,
  Seed,
  check_value,
  declared,
  need,
  one_of,
  plain,
)
from ease_jax.config import Config
from ease_jax.core.gating import GateSpec
from ease_jax.core.grid import Grid
from ease_jax.core.objective import LossSpec
from ease_jax.core.policies import POLICIES, ExitRule
from ease_jax.core.reach import GROWS
from ease_jax.core.runs import CONSTANT, DRAWING, DRAWN_ROWS
from ease_jax.core.signals import SIGNALS
from ease_jax.core.spec import ModelConfig
from ease_jax.data.spec import DataSpec
from ease_jax.data.task import TASKS
from ease_jax.decode.options import GenerateSpec
from ease_jax.evaluate.sweep import SweepSpec
from ease_jax.model import Body
from ease_jax.train import optimizer
from ease_jax.train.optimizer import OptimizerSpec
from ease_jax.train.spec import TrainSpec
from ease_jax.train.stages import Stage, plan, planned
from ease_jax.train.targets import TARGETS
from ease_jax.train.update import abstract_state

LEARNED = declared(GateSpec)


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
  """

  seed: int
  data: DataSpec
  model: ModelConfig
  loss: LossSpec
  optimizer: OptimizerSpec
  train: TrainSpec
  sweep: SweepSpec
  generate: GenerateSpec

  @property
  def body(self) -> Body:
    """The model."""
    return model_lib.build(self.model)

  @property
  def train_flops(self) -> float:
    """Training FLOPs of one token, its share of the optimizer's included.

    What another run takes to teach comes on top: `teacher.flops`.
    Training multiplies all keys of a window and masks those of later tokens,
    so that attention is counted at the whole window.
    """
    shapes = abstract_state(self.body, self.optimizer).params
    updates = optimizer.update_flops(self.optimizer, shapes)
    updates *= self.optimizer.updates_per_step
    tokens = self.train.batch_size * self.data.seq_len
    return self._flops_of_steps() + updates / tokens

  def _flops_of_steps(self) -> float:
    """Of one token forward and backward, mean over all steps."""
    body = self.body
    steps = range(self.train.steps)
    plans = collections.Counter(
      plan(self.train, body, step, self.seed) for step in steps
    )
    total = 0.0
    for now, updates in plans.items():
      total += updates * self._flops_of(planned(body, self.loss, now))
    return total / len(steps)

  def _flops_of(self, now: Stage) -> float:
    """Of one token forward and backward in an update of a stage."""
    any_run = now.before > 0 or self.train.runs in DRAWING
    prices = now.model.costs(self.data.seq_len, any_run)
    taught = prices.train_per_token(
      now.loss.trained_K,
      now.loss.asked_K,
      ahead=now.loss.gating.ahead,
      frozen=now.loss.frozen,
      rehearsed=now.loss.teaching.own and now.loss.segments > 1,
    )
    return taught + now.before * prices.segment


def from_config(config: Config, vocab_size: int = 1) -> Specs:
  """The specs of a config.

  Args:
    config: of a run.
    vocab_size: V, once the data are known; what a config says can be checked
      without it.

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
  )
  grid = model_lib.build(model).grid
  train = TrainSpec.from_config(config.train)
  loss = LossSpec.from_config(
    config.loss,
    grid,
    per_segment=train.per_segment,
    frozen=train.frozen,
    carry_backprop=model.carry_backprop,
  )
  optimizer_spec = OptimizerSpec.from_config(
    config.optimizer,
    num_blocks=grid.num_blocks,
    steps=train.steps,
    updates_per_step=train.updates_per_step(grid.segments),
    frozen=train.frozen,
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
  )
  _check_together(specs, grid)
  unread.check_unread(config)
  return specs


def _check_together(specs: Specs, grid: Grid) -> None:
  """What no section can know alone."""
  one_of('loss.target', specs.loss.teaching.target, TARGETS)
  _check_exit_rows(specs)
  _check_layer_dropout(specs)
  _check_reach(specs)
  _check_runs(specs, grid)
  _check_top_k(specs)
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


def _check_top_k(specs: Specs) -> None:
  """Fewer tokens than there are; V is known once the data are."""
  top_k = specs.loss.teaching.teacher_top_k
  vocab_size = specs.model.vocab_size
  need(
    vocab_size == 1 or top_k < vocab_size,
    f'loss.teacher_top_k={top_k} of a vocabulary of {vocab_size} leaves none '
    'out; lower it, or use 0 for all',
  )


def _check_exit_rows(specs: Specs) -> None:
  """The rows that exit are the same in one update or in micro-batches."""
  if not specs.loss.exit_threshold:
    return
  batch_size = specs.train.batch_size
  parts = specs.train.accumulate
  rows = round(specs.loss.exit_rows * batch_size)
  need(
    rows > 0 and rows % parts == 0,
    f'loss.exit_rows={specs.loss.exit_rows} of train.batch_size={batch_size} '
    f'are {rows} rows, which train.accumulate={parts} micro-batches cannot '
    'share evenly; change one of them',
  )


def _check_layer_dropout(specs: Specs) -> None:
  """Some row skips some layer, and some row is left to each."""
  train = specs.train
  routed = [model_lib.routed(specs.body, phase) for phase in train.phases]
  need(
    not train.layer_dropout or any(body.grid.routed for body in routed),
    f'train.layer_dropout={train.layer_dropout} of train.batch_size='
    f'{train.batch_size} in train.accumulate={train.accumulate} parts rounds '
    'to no row in any layer; raise one of them, or use 0',
  )


def _check_reach(specs: Specs) -> None:
  """Gradients can go less far at first."""
  train = specs.train
  if train.backprop != GROWS:
    return
  reach = specs.body.kind.reach
  need(
    reach is not None,
    f'train.backprop={train.backprop} does not fit model.body='
    f'{specs.model.body}, whose gradient goes through all that is run; use '
    'constant',
  )
  assert reach is not None
  full = reach.full(specs.model)
  need(
    train.backprop_first <= full,
    f'train.backprop_first={train.backprop_first} is more than {reach.field}='
    f'{full}, which gradients reach in the end; lower it',
  )


def _check_runs(specs: Specs, grid: Grid) -> None:
  """Any number of segments can be trained, and all parameters learn."""
  runs = specs.train.runs
  need(
    runs == CONSTANT or specs.loss.segments > 1,
    f'train.runs={runs} has no effect with model.segments=1: nothing runs '
    f'again; use {CONSTANT}, or raise model.segments',
  )
  need(
    runs == CONSTANT or specs.loss.fits_any_segments,
    f'train.runs={runs} needs a loss for any number of segments: loss.schedule='
    'constant, loss.token_fraction=1.0, loss.exit_threshold=0.0, loss.target='
    f'label and a weight on the last readout; use these, or {CONSTANT}',
  )
  goes_on = not any(cell.reads for cell in grid.segment)
  need(
    not (specs.loss.unreached and goes_on),
    f'model.carry_backprop={specs.model.carry_backprop} of model.segments='
    f'{specs.loss.segments} leaves what is before the first run without a '
    'gradient, as no run sees the input again; use as many, or another '
    'model.refine.inject',
  )
  most = specs.loss.segments * specs.train.runs_most
  need(
    runs not in DRAWING or most <= MOST_DEPTH,
    f'train.runs_most={specs.train.runs_most} times model.segments='
    f'{specs.loss.segments} is more than {MOST_DEPTH} runs; lower one of them',
  )
  need(
    runs == CONSTANT or not specs.model.gates,
    f'train.runs={runs} changes how many readouts there are, and loss.gates='
    f'{specs.model.gates} know them by number; use {CONSTANT}, or no gates',
  )
  if runs == DRAWN_ROWS:
    _check_rows(specs, grid)


def _check_rows(specs: Specs, grid: Grid) -> None:
  """Rows have one loss each, and draw nothing but their number of runs."""
  runs = specs.train.runs
  need(
    not specs.body.kind.runs_differ(specs.model),
    f'train.runs={runs} lets rows begin late, and runs of this model have '
    'parameters of their own, by their number; use drawn',
  )
  need(
    not any(specs.loss.weight_K[:-1]),
    f'train.runs={runs} reads a row after its last run alone, and the weights '
    f'are {specs.loss.weight_K}; use loss.weights=final',
  )
  need(
    specs.model.dropout == 0 and not grid.routed,
    f'train.runs={runs} does not fit model.dropout={specs.model.dropout} or a '
    'model.router, for which a program would be made for each number; use 0.0 '
    'and none',
  )
