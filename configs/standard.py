"""A standard language model: that of `exits.py` with the final loss alone.

  python -m ease_jax.main --config=configs/standard.py --workdir=runs/standard

Cost: 4 to 5 minutes on 2 cores. It had a test perplexity of 3.114 at full depth
(`exits.py`: 3.125) and 10.92 when every token stops after layer 3 (3.363);
exits save 3 % at +1.2 %.
Seed 0 on the corpus before it lost its tables of characters (2026-11-24).
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.small()  # its readouts are read, but not trained to be
  c.loss.weights = 'final'
  return config.with_argument(c, argument)
