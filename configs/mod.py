"""Mixture-of-Depths: an eighth of the tokens runs every other layer.

  python -m ease_jax.main --config=configs/mod.py --workdir=runs/mod

Of the paper (Raposo et al. 2404.02258): capacity 12.5 %, every other layer, a
router that says by itself who runs at inference. Exits on top.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  return config.with_argument(presets.mod(), argument)
