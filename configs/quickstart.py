"""Quickstart: early exits by a learned gate, on the library's source code.

  make quickstart
  python -m ease_jax.main --config=configs/quickstart.py \
      --workdir=runs/quickstart

Deep supervision at four readouts, training on exits, and a gate at each that
foresees what going on would bring (`docs/methods.md`, gain).

Cost: 9 to 13 minutes on 2 slow cores (4,000 to 6,300 tokens/s), 3 of them
evaluation and clock. Its text is the running Python's library. With Python
3.11, on test: seeds 1 to 3 (`studies/quickstart.py`) have a perplexity of 3.169
± 0.021 at full depth, and 3.192 ± 0.023 (+0.7 %) at 71.2 ± 1.0 % of its
compute. Seed 0, this one, which chose the settings, has 3.156 [3.02, 3.32], and
3.185 (+0.9 % [0.8, 1.1]) at 69.7 % [68.7, 70.8]; 95 % over windows in brackets.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  return config.with_argument(presets.quickstart(), argument)
