"""Mixture-of-Recursions: tokens choose how often the same layers run.

  python -m ease_jax.main --config=configs/mor.py --workdir=runs/mor

Of the paper (Bae et al. 2507.10524): first and last layer of their own, two
layers three times between them, expert choice of three, two and one thirds of
the tokens, who has left does not come back; a linear router with a sigmoid, an
auxiliary loss that makes it causal. The rest is that of `exits.py`.

Cost: 73 % of the training FLOPs of `exits.py` at equal updates (counted; never
run at full length), with four layers' parameters instead of eight. In a
shorter study (`studies/mor.py`, three seeds, equal training FLOPs) a test
perplexity of 4.189 ± 0.020, for 4.522 of its layers without a router and 4.376
of eight own layers. Published, of other models at 16.5e18
FLOPs: 167 M parameters at two runs reach a loss of 2.751, a standard model of
315 M 2.782; at 135 M the standard model is better. Token choice: 2.916.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  return config.with_argument(presets.mor(), argument)
