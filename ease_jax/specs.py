"""All specs of a config, built at once: what makes a config invalid.

Each spec reads its own section and checks itself; what crosses sections is
checked here. Nobody below `run` sees a config.
"""

import dataclasses

from ease_jax import config as config_lib
from ease_jax import model as model_lib
from ease_jax.checks import need, one_of
from ease_jax.config import Config
from ease_jax.core.grid import Grid
from ease_jax.core.objective import LossSpec
from ease_jax.core.policies import POLICIES, ExitRule
from ease_jax.core.signals import SIGNALS
from ease_jax.core.spec import ModelConfig
from ease_jax.data.spec import DataSpec
from ease_jax.data.task import TASKS
from ease_jax.decode.options import GenerateSpec
from ease_jax.evaluate.sweep import SweepSpec
from ease_jax.model import BODIES, Body
from ease_jax.train import optimizer
from ease_jax.train.optimizer import OptimizerSpec
from ease_jax.train.spec import TrainSpec
from ease_jax.train.targets import TARGETS
from ease_jax.train.update import abstract_state


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

    Training multiplies all keys of a window and masks those of later tokens,
    so that attention is counted at the whole window.
    """
    prices = self.body.costs(self.data.seq_len)
    per_token = prices.train_per_token(
      self.loss.trained_K, self.loss.asked_K, ahead=self.loss.ahead
    )

    shapes = abstract_state(self.body, self.optimizer).params
    updates = optimizer.update_flops(self.optimizer, shapes)
    updates *= self.optimizer.updates_per_step
    return per_token + updates / (self.train.batch_size * self.data.seq_len)


def from_config(config: Config, vocab_size: int = 1) -> Specs:
  """The specs of a config.

  Args:
    config: of a run.
    vocab_size: V, once the data are known; what a config says can be checked
      without it.

  Raises:
    ConfigError: it cannot run; one line with the field and the fix.
  """
  data = DataSpec.from_config(config.data)
  one_of('data.task', data.task, TASKS)
  model = model_lib.model_config(
    config.model,
    vocab_size,
    gates=config.loss.gates if config.loss.gate_weight else (),
    attention=TASKS[data.task].attention,
  )
  grid = model_lib.build(model).grid
  train = TrainSpec.from_config(config.train)
  loss = LossSpec.from_config(
    config.loss,
    grid,
    per_segment=train.per_segment,
    carry_backprop=model.carry_backprop,
  )
  optimizer_spec = OptimizerSpec.from_config(
    config.optimizer,
    num_blocks=grid.num_blocks,
    steps=train.steps,
    updates_per_step=train.updates_per_step(grid.segments),
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
  _check_unread(config)
  return specs


def _check_together(specs: Specs, grid: Grid) -> None:
  """What no section can know alone."""
  one_of('loss.target', specs.loss.target, TARGETS)

  for name in specs.sweep.signals:
    need(
      SIGNALS[name].gate is None or name in specs.loss.learned,
      f'exit.signals names {name}, which loss.gates={specs.loss.gates} with '
      f'loss.gate_weight={specs.loss.gate_weight} does not learn; add it '
      'there, or use another signal',
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


def _check_unread(config: Config) -> None:
  """Refuses changes in the section of a body that is not used."""
  default = config_lib.base().model

  for name in BODIES:
    if name == config.model.body or name not in default:
      continue
    for field, value in config.model[name].items():
      usual = default[name][field]
      need(
        value == usual,
        f'model.{name}.{field}={value} means something for model.body={name} '
        f'only, not {config.model.body}; leave it at {usual}',
      )
