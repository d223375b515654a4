"""Six layers, of which the two in the middle run twice: 0 1 2 3 2 3 4 5.

  python -m ease_jax.main --config=configs/middle_repeat.py \
      --workdir=runs/middle_repeat

Cost: 4 minutes on 2 cores. MIDDLE_NUMBERS
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.middle_repeat(presets.small())
  return config.with_argument(c, argument)
