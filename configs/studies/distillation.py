"""Self-distillation against the label alone, at equal training FLOPs.

  python -m ease_jax.study.main --study=configs/studies/distillation.py \
      --workdir=runs/distillation

Cost: six runs of some four minutes on one core, as those of `mod.py`. A
quickstart of width 64, 360 updates of 16 windows of 128 bytes of the built-in
text. All spend the training FLOPs of `label`: what teaches costs heads, and so
updates. Readouts are held against each other at full depth and where each of
them answers every token. The weight and the temperature are those of the first
try.

On test: a perplexity of 4.556 ± 0.032 at full depth for 4.511 ± 0.033 (+1.0 %
[-2.3, +4.4]), of 5.484 for 5.389 at the first readout (+1.8 % [-5.1, +9.2]).
"""

from ease_jax import presets
from ease_jax.study.equal import with_equal_training
from ease_jax.study.study import Config, Study

VOCAB = 257  # bytes, and the end of a text


def taught(c: Config) -> Config:
  """The last readout teaches the others, beside the label."""
  c = c.copy_and_resolve_references()
  c.loss.target = 'distill'
  return c


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  base = presets.brief(presets.exits())
  variants = {
    'label': base,
    'label and teacher': with_equal_training(taught(base), base, VOCAB),
  }
  return Study(
    'Self-distillation at equal training compute',
    'Do early readouts gain from what the last one says, and does the last '
    'one lose?',
    variants,
    seeds=(1, 2, 3),
    pairs=(('label and teacher', 'label'),),
  )
