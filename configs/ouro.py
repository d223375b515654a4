"""Ouro: three layers, up to three runs, weighed by a distribution that learns.

  python -m ease_jax.main --config=configs/ouro.py --workdir=runs/ouro

Cost: 1.1 times the FLOPs of the quickstart; not run at full length. At width
64 and the training FLOPs of eight own layers, which have 4.325, a test
perplexity of 4.972 (+15.0 %, seed 1, `docs/results.md`).
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.ouro(presets.small(), segments=3, num_layers=3)
  c.exit.policies = ('recompute', 'copy_state', 'latest')
  c.exit.policy = 'latest'
  return config.with_argument(c, argument)
