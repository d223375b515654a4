"""All losses for a finished run, learned beside its matrices: LoRA.

  python -m ease_jax.main --config=configs/standard.py --workdir=runs/standard
  python -m ease_jax.main --config=configs/lora.py --workdir=runs/lora

After LayerSkip's continued training (2404.16710), by products of rank 16 beside
all matrices (2106.09685) in place of the whole model. They are charged wherever
their layers run, 22 % of full depth at this width; `export_model` merges them.

Cost: 7.7 minutes of training beside other work on 2 slow cores, and 2 of
evaluation. One seed (1), 600 updates: a test perplexity of 3.212 at full depth,
where the run that it started from has 3.131, and behind layers 2, 3 and 5 of
5.19, 4.49 and 3.76 for 13.4, 9.8 and 5.5. Exits lose 0.9 % of that depth at
93 % of the compute. `late_exits.py` has readouts as good and leaves the last
one alone; trained with the model (`exits.py`) exits save 26 %.
"""

from ease_jax import config, presets

SOURCE = 'runs/standard'


def get_config(argument: str = ''):
  c = presets.small()
  c.loss.weights = 'final'
  c = presets.lora(c, SOURCE)
  return config.with_argument(c, argument)
