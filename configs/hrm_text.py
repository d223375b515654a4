"""HRM-Text: two states, one segment, one loss, gradients through up to five.

  python -m ease_jax.main --config=configs/hrm_text.py --workdir=runs/hrm_text

Cost: six tenths of the FLOPs of the quickstart; not run at full length. At
width 64 and the training FLOPs of eight own layers, which have 4.325, a test
perplexity of 4.503 (+4.1 %, seed 1, `docs/results.md`).
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.hrm_text(presets.small(), num_layers=1)
  return config.with_argument(c, argument)
