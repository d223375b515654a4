"""Huginn: the same two layers a drawn number of times, from a random state.

  python -m ease_jax.main --config=configs/huginn.py --workdir=runs/huginn

Cost: TODO
perplexity of
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.huginn(presets.small(), segments=4, num_layers=2, own=1)
  c.exit.policies = ('latest', 'copy_state')
  c.exit.policy = 'latest'
  return config.with_argument(c, argument)
