"""Self-distillation against the label alone, at equal training FLOPs.

  python -m ease_jax.study.main --study=configs/studies/distillation.py \
      --workdir=runs/distillation

Cost: fifteen runs of the quickstart's length; not run yet. All spend the
training FLOPs of `label`: what teaches costs heads, and so updates. Readouts
are held against each other at full depth and where each of them answers every
token. The quickstart's settings were chosen with seed 0, which is not reported;
the weight and the temperature are those of the first try.
"""

from ease_jax import presets
from ease_jax.study.equal import with_equal_training
from ease_jax.study.study import Config, Study

VOCAB = 257  # bytes, and the end of a text


def taught(c: Config, **fields: object) -> Config:
  """The last readout teaches the others."""
  c = c.copy_and_resolve_references()
  c.loss.target = 'distill'
  for name, value in fields.items():
    c.loss[f'teacher_{name}'] = value
  return c


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  base = presets.quickstart()
  variants = {
    'label': base,
    'distilled': taught(base),
    'distilled, T = 2': taught(base, temperature=2.0),
    'distilled, reverse KL': taught(base, divergence='reverse_kl'),
    'distilled, teacher alone': taught(base, weight=1.0),
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
