"""TRM as a language model: one network of one layer updates both states.

  python -m ease_jax.main --config=configs/trm.py --workdir=runs/trm

Cost: 1.1 times the FLOPs of the quickstart; not run at full length. At width
64 and the training FLOPs of eight own layers, which have 4.325, a test
perplexity of 6.387 (+47.7 %, seed 1, `docs/results.md`).
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.trm(presets.small(), segments=2, num_layers=1)
  c.train.updates = 'per_segment'
  c.exit.policies = ('recompute', 'copy_state', 'latest')
  c.exit.policy = 'latest'
  return config.with_argument(c, argument)
