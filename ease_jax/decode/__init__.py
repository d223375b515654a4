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
  defers,
  generate,
  stream,
)
from ease_jax.decode.sampling import Sampling
from ease_jax.decode.speculation import Draft, speculate
from ease_jax.decode.text import chosen_point, generate_text, options_from

__all__ = [
    'OFF', 'Cache', 'Counts', 'Draft', 'Generated', 'Options', 'Sampling',
    'chosen_point', 'commit', 'defers', 'exported', 'generate',
    'generate_text', 'grow', 'init_cache', 'options_from', 'speculate',
    'stream',
]  # pyformat: disable
