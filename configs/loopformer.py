"""LoopFormer: two layers four times, which fewer, longer runs can replace.

  python -m ease_jax.main --config=configs/loopformer.py \
      --workdir=runs/loopformer

Cost: 1.3 times the FLOPs of the quickstart; 1,200 updates were not run. After
360 at width 64 (`studies/drawn_runs.py`, `shortened`, three seeds, with a layer
before and one behind) a test perplexity of 4.589 ± 0.083 after four runs, 5.064
if one makes the whole way, 4.689 if two do; without the shortcuts 4.627, 7.215
and 5.168.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.loopformer(presets.small(), segments=4, num_layers=2, own=0)
  c.exit.policies = ('recompute', 'copy_state', 'latest')
  return config.with_argument(c, argument)
