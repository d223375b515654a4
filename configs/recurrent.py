"""Recurrent depth: four layers, run twice, one loss at the end.

  python -m ease_jax.main --config=configs/recurrent.py --workdir=runs/recurrent

Cost: about the FLOPs of the quickstart; 1,200 updates were not run. After 360
at width 64 (`studies/recurrence.py`, `normed`, three seeds) it had a test
perplexity of 4.450 ± 0.076, for 4.638 ± 0.060 of its four layers alone and
4.376 ± 0.049 of eight of their own; four layers at equal training FLOPs: 3.905
± 0.019.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.recurrent(presets.small(), segments=2, num_layers=4)
  c.exit.policies = ('recompute', 'copy_state', 'latest')
  return config.with_argument(c, argument)
