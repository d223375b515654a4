"""Quickstart: byte-level deep supervision on the standard library's source.

  make quickstart
  python -m ease_jax.main --config=configs/quickstart.py \
      --workdir=runs/quickstart

Cost: 3 to 5 minutes on 2 cores, the evaluation and its clock included. Its
text is the running Python's library. Before that lost its tables of characters
it had (Python 3.11) a test perplexity of 3.125 at full depth and 3.150, +0.8 %,
at 72.8 % of the compute; without these tables about 74.5 %. Settings were
chosen with seed 0; `studies/quickstart.py` reports others.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  return config.with_argument(presets.quickstart(), argument)
