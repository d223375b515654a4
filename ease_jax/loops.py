"""Settings of layers that run several times and differ from run to run."""

from ease_jax import presets
from ease_jax.config import Config


def relaxed(
  c: Config, segments: int, num_layers: int, own: int = 0, rank: int = 16
) -> Config:
  """`presets.recurrent` with products of a low rank in each run but the first.

  Relaxed recursion (2410.20672); the rank is that of Think-at-Hard
  (2511.08577), whose later passes alone have some.
  """
  c = presets.recurrent(c, segments, num_layers, own)
  c.model.refine.per_run = 'lora'
  c.model.refine.rank = rank
  return c


def timed(c: Config, segments: int, num_layers: int, own: int = 0) -> Config:
  """`presets.repeated` whose runs know their time and step (2602.11451)."""
  c = presets.repeated(c, segments, num_layers, own)
  c.model.refine.per_run = 'film'
  return c
