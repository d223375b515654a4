"""Six layers, of which the two in the middle run twice: 0 1 2 3 2 3 4 5.

  python -m ease_jax.main --config=configs/middle_repeat.py \
      --workdir=runs/middle_repeat

Cost: an update has the FLOPs of eight layers, as `standard.py`. A test
perplexity of its own is not measured yet.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.middle_repeat(presets.small())
  return config.with_argument(c, argument)
