"""Refuses fields that no config has, and changes that nobody reads."""

from ease_jax import config as config_lib
from ease_jax.checks import ConfigError, check_read, need, plain, shown
from ease_jax.config import Config
from ease_jax.core.block import AttentionSpec, MLPSpec
from ease_jax.core.distillation import TeachingSpec
from ease_jax.core.gating import GateSpec
from ease_jax.core.objective import LossSpec
from ease_jax.core.shortcut import ShortcutSpec
from ease_jax.core.spec import ModelConfig
from ease_jax.core.weights import WeightSpec
from ease_jax.data.spec import DataSpec
from ease_jax.decode.options import DRAFTINGS, GenerateSpec
from ease_jax.decode.sampling import Sampling
from ease_jax.evaluate.guarantee import GuaranteeSpec
from ease_jax.evaluate.sweep import SweepSpec
from ease_jax.model import BODIES, ROUTINGS
from ease_jax.sharding import MeshSpec
from ease_jax.train.optimizer import OptimizerSpec
from ease_jax.train.spec import TrainSpec

# Who declares the fields of each section; others are all read.
OWNERS: dict[str, tuple[type, ...]] = {
  'model': (ModelConfig,),
  'model.block.attention': (AttentionSpec,),
  'model.block.mlp': (MLPSpec,),
  'data': (DataSpec,),
  'loss': (WeightSpec, TeachingSpec, GateSpec, ShortcutSpec, LossSpec),
  'optimizer': (OptimizerSpec,),
  'train': (TrainSpec,),
  'exit': (SweepSpec,),
  'exit.guarantee': (GuaranteeSpec,),
  'generate': (GenerateSpec, Sampling),
  'mesh': (MeshSpec,),
}


def check_complete(config: Config, base: Config, path: str) -> None:
  """Refuses what is no config, or has fields and sections elsewhere."""
  need(
    isinstance(config, type(base)) and set(base) <= set(config),
    f'{path} is not the config that ease_jax.config.base() makes, but a '
    f'{type(config).__name__}; change its fields and return it',
  )
  for name, value in config.items():
    if name in base or isinstance(value, type(base)):  # a section may be new
      continue
    raise ConfigError(
      f'{path}.{name}={shown(value)}: there is no such field; leave it out'
    )
  for name, default in base.items():
    is_section = isinstance(default, type(base))
    if is_section:
      check_complete(config[name], default, f'{path}.{name}')
    need(
      is_section or not isinstance(config[name], type(base)),
      f'{path}.{name} is a section; give it a value',
    )


def check_unread(config: Config) -> None:
  """Refuses changes of fields that nobody reads."""
  base = config_lib.base()
  for section, owners in OWNERS.items():
    for owner in owners:
      check_read(section, owner, plain(config[section]), plain(base[section]))

  bodies = {name: kind.options for name, kind in BODIES.items()}
  for chooser, readers in (
    ('model.body', bodies),
    ('model.router', ROUTINGS),
    ('generate.drafting', DRAFTINGS),
  ):
    section = chooser.split('.')[0]
    for name, reader in readers.items():
      if name in base[section]:
        _check_section(config, base, chooser, name, reader)


def _check_section(
  config: Config, base: Config, chooser: str, name: str, reader: type | None
) -> None:
  """Refuses changes in the section of a choice that was not made.

  Args:
    config: what is checked.
    base: the defaults.
    chooser: the dotted field that chooses.
    name: of the choice, and of its section beside that field.
    reader: the spec that reads it.
  """
  parent = chooser.split('.')[0]
  section = f'{parent}.{name}'
  chosen = config[chooser]
  values = plain(config[section])
  defaults = plain(base[section])
  if name == chosen and reader is not None:
    check_read(section, reader, values, defaults)
    return

  for field, value in values.items():
    usual = defaults[field]
    need(
      value == usual,
      f'{section}.{field}={shown(value)} has no effect: it is read where '
      f'{chooser} is {name} only, and that is {chosen!r}; change that, '
      f'or leave {field} at {usual!r}',
    )
