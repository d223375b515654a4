"""Exits for a finished run, which stays as it was: maps, MLPs, own norms.

  python -m ease_jax.main --config=configs/standard.py --workdir=runs/standard
  python -m ease_jax.main --config=configs/late_exits.py \
      --workdir=runs/late_exits

Of the papers: an MLP exit on a frozen model (EE-Tuning, 2402.00518), trained on
what the last layer says and on nothing else (Balcony, 2503.05005, whose exits
are whole blocks). Before that each map is the ridge regression of the last
layer's states, which takes seconds.

Cost: 3.4 minutes of training and 1.7 of evaluation, beside other work on 2 slow
cores: the 600 updates go forward through the layers and back through what is
new alone. One seed (1), with no
time taken of the decoder: a test perplexity of 3.144 at full depth, as before,
and behind layers 2, 3 and 5 of 5.11, 4.36 and 3.74, where the run that it
started from has 14.46, 8.49 and 5.17, and fitted maps alone 8.90, 6.75 and
4.56. Exits save 5 % at +1 %, as they do without all this; trained with the
model (`exits.py`) they save 26 %.
"""

from ease_jax import config, presets

SOURCE = 'runs/standard'


def get_config(argument: str = ''):
  c = presets.small()
  c.loss.weights = 'final'
  c = presets.late_exits(c, SOURCE)
  return config.with_argument(c, argument)
