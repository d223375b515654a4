"""A standard language model: the grid with all weight on the last readout.

  python -m ease_jax.main --config=configs/standard.py --workdir=runs/standard
"""

from ease_jax import config


def get_config(argument: str = ''):
  c = config.base()
  c.model.readouts = (2, 4, 6, 8)  # read out, but not trained to be
  c.loss.weights = 'final'
  return config.with_argument(c, argument)
