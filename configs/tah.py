"""TaH: the same four layers again, for hard tokens alone.

  python -m ease_jax.main --config=configs/tah.py --workdir=runs/tah

Cost: about the FLOPs of the quickstart; not run at full length. At width 64 and
the training FLOPs of eight own layers, which have 4.325, a test perplexity of
4.849 (+12.1 %, seed 1, `docs/results.md`).
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.tah(presets.small(), num_layers=4)
  c.exit.policies = ('latest', 'copy_state')
  return config.with_argument(c, argument)
