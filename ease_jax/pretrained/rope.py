"""Rotary positions as a `config.json` says them, in its old or its new way.

Longer contexts are had by turning some pairs of numbers more slowly. Each way
comes down to a factor for each pair, by which its wavelength grows.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ease_jax.checks import ConfigError, need

DEFAULT = 10000.0  # where a config.json has none
PLAIN = {'rope_theta', 'partial_rotary_factor'}  # they scale nothing

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
  if not low < high:
    raise ValueError(f'high_freq_factor={high} is not above {low}')
  kept_P = np.clip((held_P - low) / (high - low), 0.0, 1.0)
  return 1 / (kept_P + (1 - kept_P) / said['factor'])


SCALINGS: dict[str, Scaling] = {'linear': _linear, 'llama3': _llama3}


class Positions(NamedTuple):
  """Rotary positions.

  Attributes:
    share: how much of a head turns.
    base: of the wavelengths.
    factors: of them; () = all are 1.
  """

  share: float
  base: float
  factors: tuple[float, ...]


def positions(said: Json, head_dim: int, where: object) -> Positions:
  """What turns, and how fast.

  Args:
    said: a `config.json`.
    head_dim: width of a head.
    where: the file, for messages.

  Raises:
    ConfigError: it scales positions in no way known here.
  """
  ropes = said.get('rope_parameters') or {}
  scaling = said.get('rope_scaling') or ropes
  try:
    # Where local layers have positions of their own, these are the others'.
    ropes = ropes.get('full_attention', ropes)
    scaling = scaling.get('full_attention', scaling)
    base = float(ropes.get('rope_theta') or said.get('rope_theta') or DEFAULT)
    if not 1 <= base < math.inf:
      raise ValueError(f'rope_theta={base} is no wavelength')
    usual = said.get('partial_rotary_factor', 1.0)
    share = float(scaling.get('partial_rotary_factor', usual))
    if not 0 < share <= 1:
      raise ValueError(f'partial_rotary_factor={share} is no share')
    width = int(head_dim * share)
    exponent_P = 2 * np.arange(width // 2) / width
    wavelength_P = 2 * math.pi * base**exponent_P
    factor_P = _scaled(wavelength_P, scaling, where)
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    if isinstance(error, ConfigError):
      raise
    raise ConfigError(
      f'{where} says of rotary positions what cannot be read ({error!r}): '
      f'{scaling!r}; get it again'
    ) from error
  return Positions(share, base, factor_P)


def _scaled(
  wavelength_P: np.ndarray, scaling: Json, where: object
) -> tuple[float, ...]:
  """Factors of the wavelengths; () = all are 1."""
  kind = scaling.get('rope_type', scaling.get('type', ''))
  if kind == 'default' or (not kind and not set(scaling) - PLAIN):
    return ()
  need(
    kind in SCALINGS,
    f'{where} scales rotary positions by {kind!r}, and a block can by '
    f'{", ".join(SCALINGS)} only; import another model',
  )
  factor_P = SCALINGS[kind](wavelength_P, scaling)
  need(
    bool(np.isfinite(factor_P).all() and (factor_P > 0).all()),
    f'{where} scales rotary positions by {scaling!r}, which makes no numbers '
    'above 0; get it again',
  )
  return tuple(factor_P.tolist())
