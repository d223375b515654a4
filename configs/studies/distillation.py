"""Self-distillation against the label alone, at equal training FLOPs.

  python -m ease_jax.study.main --study=configs/studies/distillation.py \
      --workdir=runs/distillation

Cost: nine runs of two to three minutes on one core; not run yet. A quickstart
of width 64, 360 updates of 16 windows of 128 bytes of the built-in text. All
spend the training FLOPs of `label`: what teaches costs heads, and so updates.
Readouts are held against each other at full depth and where each of them
answers every token. The weight and the temperature are those of the first try.
"""

from ease_jax import presets
from ease_jax.study.equal import with_equal_training
from ease_jax.study.study import Config, Study

VOCAB = 257  # bytes, and the end of a text
STEPS = 360


def labelled() -> Config:
  """A narrower quickstart, fewer updates."""
  c = presets.quickstart()
  c.model.dim = 64
  c.model.block.mlp.dim = 256
  c.train.steps = STEPS
  c.train.eval_every = 120
  c.train.checkpoint_every = 120
  c.evaluate.max_tokens = 16_384
  c.evaluate.speed_tokens = 0
  c.exit.policies = ('copy_state',)
  return c


def taught(c: Config, weight: float) -> Config:
  """The last readout teaches the others."""
  c = c.copy_and_resolve_references()
  c.loss.target = 'distill'
  c.loss.teacher_weight = weight
  return c


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  base = labelled()
  variants = {
    'label': base,
    'label and teacher': taught(base, 0.5),
    'teacher alone': taught(base, 1.0),
  }
  variants = {
    name: with_equal_training(c, base, VOCAB) for name, c in variants.items()
  }
  return Study(
    'Self-distillation at equal training compute',
    'Do early readouts gain from what the last one says, and does the last '
    'one lose?',
    variants,
    seeds=(1, 2, 3),
    pairs=tuple((name, 'label') for name in variants if name != 'label'),
  )
