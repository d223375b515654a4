"""Huginn: the same two layers a drawn number of times, from a random state.

  python -m ease_jax.main --config=configs/huginn.py --workdir=runs/huginn

Cost: about the FLOPs of the quickstart; not run at full length, so that there
is no perplexity of its own yet. In a trial of 240 updates, with an injection
that learned too fast, runs after the second changed nothing.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.huginn(presets.small(), segments=4, num_layers=2, own=1)
  c.exit.policies = ('latest', 'copy_state')
  c.exit.policy = 'latest'
  return config.with_argument(c, argument)
