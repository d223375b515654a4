"""Six layers, of which the two in the middle run twice: 0 1 2 3 2 3 4 5.

  python -m ease_jax.main --config=configs/middle_repeat.py \
      --workdir=runs/middle_repeat

Cost: 4 minutes for 450 updates on 2 slow cores; 1,200 were not run. After 360
at width 64 (`studies/recurrence.py`, three seeds) a test perplexity of 4.498 ±
0.066, for 4.491 ± 0.042 of its six layers alone: the repeats bring nothing
that could be told there. Switched on late: 4.471 ± 0.017.
"""

from ease_jax import config, presets


def get_config(argument: str = ''):
  c = presets.middle_repeat(presets.small())
  return config.with_argument(c, argument)
