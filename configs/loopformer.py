"""LoopFormer: two layers four times, which fewer, longer runs can replace.

  python -m ease_jax.main --config=configs/loopformer.py \
      --workdir=runs/loopformer

Cost: 1.3 times the FLOPs of the quickstart; not run at full length, so that
there is no perplexity of its own yet.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.loopformer(presets.small(), segments=4, num_layers=2, own=0)
  c.exit.policies = ('recompute', 'copy_state', 'latest')
  return config.with_argument(c, argument)
