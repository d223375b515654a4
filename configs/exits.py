"""Early exits on max_prob alone: the quickstart without a gate.

  python -m ease_jax.main --config=configs/exits.py --workdir=runs/exits

Cost: that of the quickstart, with one signal to search in the place of two.
With Python 3.11's library, on test, seeds 1 to 3 (`studies/quickstart.py`) have
a perplexity of 3.168 ± 0.027 at full depth, and 3.196 ± 0.030 (+0.9 %) at 74.4
± 1.1 % of its compute. `gates.py` learns gates on such a run, which stays as it
is.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  return config.with_argument(presets.exits(), argument)
