"""LayerSkip: layer dropout, a loss at early readouts in turn, own drafts.

  python -m ease_jax.main --config=configs/layerskip.py --workdir=runs/layerskip

Of the paper (Elhoushi et al. 2404.16710, from scratch): p_max 0.2, rising with
depth and with time; e_scale 0.2; a rotation in which one early readout at a
time has a loss; greedy text by self-speculation.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  return config.with_argument(presets.layerskip(), argument)
