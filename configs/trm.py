"""TRM as a language model: one network of one layer updates both states.

  python -m ease_jax.main --config=configs/trm.py --workdir=runs/trm

Cost: 1.1 times the FLOPs of the quickstart; not run at full length, so that
there is no perplexity of its own yet.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.trm(presets.small(), segments=2, num_layers=1)
  c.train.updates = 'per_segment'
  c.exit.policies = ('recompute', 'copy_state', 'latest')
  c.exit.policy = 'latest'
  return config.with_argument(c, argument)
