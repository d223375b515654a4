"""Six layers, of which the two in the middle run twice: 0 1 2 3 2 3 4 5.

  python -m ease_jax.main --config=configs/middle_repeat.py \
      --workdir=runs/middle_repeat

Cost: 4 minutes for 450 updates on 2 slow cores; 1,200 were not run. After 450
(seed 0, as a body `cycle` of the same layers) a test perplexity of 3.783, and
no twin beside it yet.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.middle_repeat(presets.small())
  return config.with_argument(c, argument)
