"""Deep supervision x refinement: a loss on the whole grid of two segments.

  python -m ease_jax.main --config=configs/ds_irt.py --workdir=runs/ds_irt

Cost: 4 to 5 minutes on 2 cores. It had a test perplexity of 3.211 at full
depth, 3.197 when the last layer of the first run answers, and 3.228, +0.5 %, at
51 % of the compute.
Seed 0 on the corpus before it lost its tables of characters (2026-11-24).
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.small()
  c = presets.refinement(c, segments=2, num_layers=4)
  c.model.readouts = (2, 4)
  c.loss.weights = 'linear'
  c.exit.policies = ('recompute', 'copy_state', 'latest')
  return config.with_argument(c, argument)
