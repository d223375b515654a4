"""Rotary positions as a `config.json` says them, in its old or its new way.

Longer contexts are had by turning some pairs of numbers more slowly. Each way
comes down to a factor for each pair, by which its wavelength grows.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ease_jax.checks import ConfigError, need

DEFAULT_BASE = 10000.0  # where a config.json has none

Json = dict[str, Any]
# Wavelengths in tokens [P] and what the config says -> factors [P].
Scaling = Callable[[np.ndarray, Json], np.ndarray]


def _linear(wavelength_P: np.ndarray, said: Json) -> np.ndarray:
  """All pairs alike (2306.15595)."""
  return np.full(len(wavelength_P), float(said['factor']))


def _llama3(wavelength_P: np.ndarray, said: Json) -> np.ndarray:
  """Short waves as they are, long ones slower, and a ramp between (Llama 3.1).

  A wave is short where the old context holds `high_freq_factor` of it, long
  where it does not hold `low_freq_factor`.
  """
  held_P = said['original_max_position_embeddings'] / wavelength_P
  low, high = said['low_freq_factor'], said['high_freq_factor']
  kept_P = np.clip((held_P - low) / (high - low), 0.0, 1.0)
  return 1 / (kept_P + (1 - kept_P) / said['factor'])


SCALINGS: dict[str, Scaling] = {'linear': _linear, 'llama3': _llama3}


def positions(
  said: Json, head_dim: int, where: object
) -> tuple[float, tuple[float, ...]]:
  """The base of wavelengths, and factors of them; () = all are 1.

  Args:
    said: a `config.json`.
    head_dim: width of a head.
    where: the file, for messages.

  Raises:
    ConfigError: it scales positions in no way known here.
  """
  new = said.get('rope_parameters') or {}
  new = new.get('full_attention', new)  # where local layers have their own
  scaling = said.get('rope_scaling') or new
  base = float(new.get('rope_theta', said.get('rope_theta')) or DEFAULT_BASE)
  kind = scaling.get('rope_type', scaling.get('type', 'default'))
  if kind == 'default':
    return base, ()
  need(
    kind in SCALINGS,
    f'{where} scales rotary positions by {kind!r}, and a block can by '
    f'{", ".join(SCALINGS)} only; import another model',
  )

  half = head_dim // 2
  wavelength_P = 2 * math.pi * base ** (np.arange(half) / half)
  try:
    factor_P = SCALINGS[kind](wavelength_P, scaling)
  except KeyError as error:
    raise ConfigError(
      f'{where} scales rotary positions by {kind!r} without saying {error}; '
      'get it again'
    ) from error
  return base, tuple(factor_P.tolist())
