"""Exits for a finished run, which stays as it was: maps, MLPs, own norms.

  python -m ease_jax.main --config=configs/standard.py --workdir=runs/standard
  python -m ease_jax.main --config=configs/late_exits.py \
      --workdir=runs/late_exits

Of the papers: an MLP exit on a frozen model (EE-Tuning, 2402.00518), trained on
what the last layer says and on nothing else (Balcony, 2503.05005, whose exits
are whole blocks). Before that each map is the ridge regression of the last
layer's states, which takes seconds.

Cost: not measured yet.
"""

from ease_jax import config, presets

SOURCE = 'runs/standard'


def get_config(argument: str = ''):
  c = presets.small()
  c.loss.weights = 'final'
  c = presets.late_exits(c, SOURCE)
  return config.with_argument(c, argument)
