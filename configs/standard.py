"""A standard language model: the quickstart's with the final loss alone.

  python -m ease_jax.main --config=configs/standard.py --workdir=runs/standard
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.small()  # its readouts are read, but not trained to be
  c.loss.weights = 'final'
  return config.with_argument(c, argument)
