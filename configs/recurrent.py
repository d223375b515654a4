"""Recurrent depth: four layers, run twice, one loss at the end.

  python -m ease_jax.main --config=configs/recurrent.py --workdir=runs/recurrent

Cost: 4 minutes on 2 cores. RECURRENT_NUMBERS
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.recurrent(presets.small(), segments=2, num_layers=4)
  c.exit.policies = ('recompute', 'copy_state', 'latest')
  return config.with_argument(c, argument)
