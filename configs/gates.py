"""Gates on a finished quickstart: four learned signals beside max_prob.

  make quickstart
  python -m ease_jax.main --config=configs/gates.py --workdir=runs/gates

CALM's classifier (2207.07061), the Depth-Adaptive Transformer's chain of
decisions (1910.10073), Ouro's gate (2510.25741), and a regression on what going
on would bring. The model stays as the quickstart left it, bit for bit; only
the gates learn, 600 updates of forward passes.

Cost: 4 minutes of training and 10 of searching thresholds on 2 cores that had
other work, for three of its six signals. On seed 1 of the quickstart (a test
perplexity of 3.193 at full depth), when one gate served all readouts: +1 % cost
73.7 % of the compute by max_prob and by gain, 74.7 % by calm; +0.5 %: 81.0,
79.9, 80.6 %; +5 %: 54.2, 50.8, 53.8 % (2026-11-26).
"""

from ease_jax import config, presets

SOURCE = 'runs/quickstart'


def get_config(argument: str = ''):
  c = presets.gates(presets.quickstart(), SOURCE)
  return config.with_argument(c, argument)
