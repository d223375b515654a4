"""Quickstart: byte-level deep supervision on the standard library's source.

  make quickstart
  python -m ease_jax.main --config=configs/quickstart.py \
      --workdir=runs/quickstart
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.small()
  c.loss.weights = 'chosen'
  c.loss.chosen = ((2, 0.15), (3, 0.3), (5, 0.15), (8, 0.4))
  c.loss.exit_threshold = 0.8
  return config.with_argument(c, argument)
