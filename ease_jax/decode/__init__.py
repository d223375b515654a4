"""Cached generation with exits that skip work.

`generate` and `stream` continue prompts; `step`, `prefill` and `cache` are
what they are made of.
"""

from ease_jax.decode.cache import Cache, commit, grow, init_cache
from ease_jax.decode.export import exported
from ease_jax.decode.loop import (
  OFF,
  Counts,
  Generated,
  Options,
  check_prompts,
  generate,
  stream,
)
from ease_jax.decode.sampling import Sampling
from ease_jax.decode.speculation import Draft, candidates, speculate
from ease_jax.decode.text import (
  chosen_point,
  exit_text,
  options_from,
  speculative_text,
)

__all__ = [
  'OFF',
  'Cache',
  'Counts',
  'Draft',
  'Generated',
  'Options',
  'Sampling',
  'candidates',
  'check_prompts',
  'chosen_point',
  'commit',
  'exit_text',
  'exported',
  'generate',
  'grow',
  'init_cache',
  'options_from',
  'speculate',
  'speculative_text',
  'stream',
]
