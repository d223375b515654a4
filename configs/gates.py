"""Gates on a finished quickstart: four learned signals beside max_prob.

  make quickstart
  python -m ease_jax.main --config=configs/gates.py --workdir=runs/gates

CALM's classifier (2207.07061), the Depth-Adaptive Transformer's chain of
decisions (1910.10073), Ouro's gate (2510.25741), and a regression on what going
on would bring. The model stays as the quickstart left it, bit for bit; only
the gates learn, 400 updates of forward passes.

Cost: not measured yet.
"""

from ease_jax import config, presets

SOURCE = 'runs/quickstart'


def get_config(argument: str = ''):
  c = presets.gates(presets.quickstart(), SOURCE)
  return config.with_argument(c, argument)
