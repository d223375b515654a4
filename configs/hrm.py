"""HRM as a language model: two states, halting per token by Q-learning.

  python -m ease_jax.main --config=configs/hrm.py --workdir=runs/hrm

Cost: 7 minutes on 2 cores. It had a test perplexity of 4.756 at full depth (18
layers, two of them its own; the quickstart: 3.125) and 4.792, +0.7 %, at 63.6 %
of the compute. Halting where its own values say so: 4.964 at 46 %.
Seed 0 on the corpus before it lost its tables of characters (2026-11-24).
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.small()
  c = presets.hrm(c, segments=3, num_layers=1)
  c.train.updates = 'per_segment'
  c.exit.signals = ('q_halt', 'max_prob')
  # Its low module never sees the high state alone, as copy_state has it.
  c.exit.policies = ('recompute', 'copy_state', 'latest')
  c.exit.policy = 'latest'
  return config.with_argument(c, argument)
