"""Mixture-of-Depths: an eighth of the tokens runs every other layer.

  python -m ease_jax.main --config=configs/mod.py --workdir=runs/mod

Of the paper (Raposo et al. 2404.02258): capacity 12.5 %, every other layer, a
router that says by itself who runs at inference. The rest is that of
`exits.py`, exits on top.

Cost: 65 % of the training FLOPs of `exits.py` at equal updates (counted; never
run at full length). In a shorter study (`studies/mod.py`, three seeds, equal
training FLOPs) a test perplexity of 4.063 ± 0.033 where a standard model of as
many layers has 4.376 ± 0.049, and one of half as many 3.905 ± 0.019. Published,
of other models: at equal training FLOPs up to 1.5 % better log-probability than
a standard model, or as good with steps up to 60 % faster; deciding causally in
place of top-k is right for 97 % of the tokens and changes the loss hardly at
all.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  return config.with_argument(presets.mod(), argument)
