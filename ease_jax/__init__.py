"""Language models that spend depth where a token needs it.

The public face: what a notebook needs, in one import. Modules are loaded when
a name of theirs is first used.
"""

import importlib
from typing import TYPE_CHECKING

from ease_jax.version import __version__ as __version__

if TYPE_CHECKING:
  from ease_jax.checks import ConfigError as ConfigError
  from ease_jax.config import base as base
  from ease_jax.core.grid import Cell as Cell
  from ease_jax.core.grid import Grid as Grid
  from ease_jax.core.grid import expected_compute as expected_compute
  from ease_jax.core.grid import first_exit as first_exit
  from ease_jax.core.policies import OperatingPoint as OperatingPoint
  from ease_jax.decode import Options as Options
  from ease_jax.decode import Sampling as Sampling
  from ease_jax.decode import generate as generate
  from ease_jax.decode import stream as stream
  from ease_jax.evaluate.compute import compute as compute
  from ease_jax.evaluate.passes import masked_pass as masked_pass
  from ease_jax.notebook import LoadedRun as LoadedRun
  from ease_jax.notebook import load_run as load_run
  from ease_jax.run import body_of as body_of

# name here -> (module, name there)
_PUBLIC = {
  'Cell': ('core.grid', 'Cell'),
  'ConfigError': ('checks', 'ConfigError'),
  'Grid': ('core.grid', 'Grid'),
  'LoadedRun': ('notebook', 'LoadedRun'),
  'OperatingPoint': ('core.policies', 'OperatingPoint'),
  'Options': ('decode', 'Options'),
  'Sampling': ('decode', 'Sampling'),
  'base': ('config', 'base'),
  'body_of': ('run', 'body_of'),
  'compute': ('evaluate.compute', 'compute'),
  'expected_compute': ('core.grid', 'expected_compute'),
  'first_exit': ('core.grid', 'first_exit'),
  'generate': ('decode', 'generate'),
  'load_run': ('notebook', 'load_run'),
  'masked_pass': ('evaluate.passes', 'masked_pass'),
  'stream': ('decode', 'stream'),
}


def __getattr__(name: str):
  if name not in _PUBLIC:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module, there = _PUBLIC[name]
  return getattr(importlib.import_module(f'{__name__}.{module}'), there)


def __dir__() -> list[str]:
  return sorted([*globals(), *_PUBLIC])
