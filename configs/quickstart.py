"""Quickstart: byte-level deep supervision on the standard library's source.

  make quickstart
  python -m ease_jax.main --config=configs/quickstart.py \
      --workdir=runs/quickstart

Cost: 3 to 5 minutes on 2 cores, the evaluation and its clock included (18 on a
slow machine with other work beside it). Its text is the running Python's
library. With Python 3.11, on test: seeds 1 to 3 (`studies/quickstart.py`) have
a perplexity of 3.168 ± 0.027 at full depth, and 3.196 ± 0.030 (+0.9 %) at 74.4
± 1.1 % of its compute. Seed 0, this one, which chose the settings, has 3.172
[3.03, 3.34], and 3.196 (+0.8 % [0.6, 1.0]) at 75.7 % [74.7, 76.8]; 95 % over
windows in brackets.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  return config.with_argument(presets.quickstart(), argument)
