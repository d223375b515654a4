"""Deep supervision: a loss at every layer, weights proportional to depth.

  python -m ease_jax.main --config=configs/deep_supervision.py \
      --workdir=runs/deep_supervision
"""

from ease_jax import config


def get_config(argument: str = ''):
  c = config.base()
  c.loss.weights = 'linear'
  c.exit.policies = ('recompute', 'copy_state', 'drop')
  return config.with_argument(c, argument)
