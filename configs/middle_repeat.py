"""Six layers, of which the two in the middle run twice: 0 1 2 3 2 3 4 5.

  python -m ease_jax.main --config=configs/middle_repeat.py \
      --workdir=runs/middle_repeat

Cost: not measured; an update has the FLOPs of eight layers, as `standard.py`.
A first trial, two seeds, 450 updates, on the corpus before it lost its tables
of characters, had a test perplexity of 3.797 and 3.757, as good as eight layers
of their own (3.796 and 3.754); four have 3.903 and 3.894.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.middle_repeat(presets.small())
  return config.with_argument(c, argument)
