"""Huginn: the same two layers a drawn number of times, from a random state.

  python -m ease_jax.main --config=configs/huginn.py --workdir=runs/huginn

Cost: about the FLOPs of the quickstart; 1,200 updates were not run. Near to it,
after 360 at width 64 (`studies/drawn_runs.py`, `drawn`, three seeds): a test
perplexity of 4.604 ± 0.067 after four runs, 4.741 after one. In a trial of 240
updates, with an injection that learned too fast, runs after the second changed
nothing.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.huginn(presets.small(), segments=4, num_layers=2, own=1)
  c.exit.policies = ('latest', 'copy_state')
  c.exit.policy = 'latest'
  return config.with_argument(c, argument)
