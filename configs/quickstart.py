"""Quickstart: byte-level deep supervision on the standard library's source.

  make quickstart
  python -m ease_jax.main --config=configs/quickstart.py \
      --workdir=runs/quickstart

Cost: 3 to 5 minutes on 2 cores, the evaluation and its clock included. Expect
(Python 3.11, whose library is the text) a test perplexity of 3.125 at full
depth and 3.150, +0.8 %, at 72.8 % of the compute. Three seeds, in
`docs/results.md`: 74.5 ± 1.7 %.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  return config.with_argument(presets.quickstart(), argument)
