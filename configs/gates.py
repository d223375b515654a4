"""Gates on a finished run: four learned signals beside max_prob.

  python -m ease_jax.main --config=configs/exits.py --workdir=runs/exits
  python -m ease_jax.main --config=configs/gates.py --workdir=runs/gates

CALM's classifier (2207.07061), the Depth-Adaptive Transformer's chain of
decisions (1910.10073), Ouro's gate (2510.25741), and a regression on what going
on would bring. The model stays as it was, bit for bit; only the gates learn,
600 updates of forward passes. The quickstart learns the last of them, `gain`,
with the model: +1 % costs 68.6 ± 0.9 % there.

Cost: 4 minutes of training and 10 of searching thresholds on one core, for four
of its six signals. On three runs of `exits.py` (seeds 1 to 3 with a test
perplexity of 3.168 ± 0.027 at full depth) +1 % costs 73.6 ± 0.1 % of the
compute by max_prob, 70.3 ± 1.3 % by gain, 73.1 ± 1.4 % by calm, 73.6 ± 2.3 % by
dat; +5 %: 53.3, 48.9, 52.1, 49.8 % (2026-11-26, `docs/results.md`).
"""

from ease_jax import config, presets

SOURCE = 'runs/exits'


def get_config(argument: str = ''):
  c = presets.gates(presets.exits(), SOURCE)
  return config.with_argument(c, argument)
