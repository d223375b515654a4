"""All losses for a finished run, learned beside its matrices: LoRA.

  python -m ease_jax.main --config=configs/standard.py --workdir=runs/standard
  python -m ease_jax.main --config=configs/lora.py --workdir=runs/lora

COST
"""

from ease_jax import config, presets

SOURCE = 'runs/standard'


def get_config(argument: str = ''):
  c = presets.small()
  c.loss.weights = 'final'
  c = presets.lora(c, SOURCE)
  return config.with_argument(c, argument)
