"""Exits that come late against exits that were trained with the model.

  python -m ease_jax.study.main --study=configs/studies/late_exits.py \
      --workdir=runs/late_exits_study
"""

from ease_jax import presets
from ease_jax.study.equal import with_equal_training
from ease_jax.study.study import Config, Study

VOCAB = 4096


def joint(c: Config) -> Config:
  """All readouts have a loss from the start, the last one the heaviest."""
  c = c.copy_and_resolve_references()
  c.loss.weights = 'chosen'
  c.loss.chosen = ((3, 0.15), (6, 0.2), (9, 0.25), (12, 0.4))
  return c


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  base = presets.larger()
  variants = {
    'final loss alone': base,
    'all losses from the start': with_equal_training(joint(base), base, VOCAB),
  }
  return Study(
    'Exits that come late',
    'What do exits know, and save, that are made for a finished model, beside '
    'those that were trained with it?',
    variants,
    seeds=(1,),
    pairs=(('all losses from the start', 'final loss alone'),),
  )
