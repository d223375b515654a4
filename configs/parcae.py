"""Parcae: a state that decays, each row a drawn number of times.

  python -m ease_jax.main --config=configs/parcae.py --workdir=runs/parcae

Cost: 1.3 times the FLOPs of the quickstart, as all rows of a batch wait for the
longest; not run at full length. At width 64 and the training FLOPs of eight own
layers, which have 4.325, a test perplexity of 5.217 (+20.6 %, seed 1,
`docs/results.md`).
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.parcae(presets.small(), segments=4, num_layers=2, own=1)
  c.exit.policies = ('latest', 'copy_state')
  c.exit.policy = 'latest'
  return config.with_argument(c, argument)
