"""Recurrent depth: four layers, run twice, one loss at the end.

  python -m ease_jax.main --config=configs/recurrent.py --workdir=runs/recurrent

Cost: 13 minutes for 450 updates on one slow core; 1,200 were not run. After 450
(seed 0) a test perplexity of 3.985, and nothing to hold it against. A first
trial of the same recipe, two seeds, 450 updates, on the corpus before it lost
its tables of characters: 3.778 and 3.824, four layers of their own 3.903 and
3.894, eight 3.796 and 3.754, and `irt.py` 3.885 and 3.826.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.recurrent(presets.small(), segments=2, num_layers=4)
  c.exit.policies = ('recompute', 'copy_state', 'latest')
  return config.with_argument(c, argument)
