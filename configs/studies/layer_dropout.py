"""Layer dropout: the final loss at equal updates and at equal training FLOPs.

  python -m ease_jax.study.main --study=configs/studies/layer_dropout.py \
      --workdir=runs/layer_dropout

Cost: fifteen runs of some four minutes on one core, as those of `mod.py`. 360
updates of 16 windows of 128 bytes of the built-in text, eight layers of width
64. All layers alike are skipped by 20 or 40 % of the rows at the start and by
none at the end, which saves 8 or 15 % of the training FLOPs. Learning rates are
those of the standard model.

On test: a perplexity of 5.109 ± 0.061 with 0.4 at equal updates and 4.800 ±
0.003 at equal FLOPs, 4.839 ± 0.063 and 4.692 ± 0.059 with 0.2, for 4.376 ±
0.049 without.
"""

from ease_jax import presets
from ease_jax.study.equal import with_equal_training
from ease_jax.study.study import Config, Study

VOCAB = 257  # bytes, and the end of a text
RATES = (0.2, 0.4)  # shares of the rows that skip a layer, at the start


def dropping(c: Config, rate: float) -> Config:
  """Rows of a batch skip layers, most of them at the start."""
  c = c.copy_and_resolve_references()
  c.train.layer_dropout = rate
  c.train.layer_dropout_shape = 'uniform'
  c.train.layer_dropout_schedule = 'falling'
  return c


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  base = presets.brief(presets.standard(8))
  variants = {'standard': base}
  for rate in RATES:
    dropped = dropping(base, rate)
    longer = with_equal_training(dropped, base, VOCAB)
    variants[f'dropout {rate}, equal updates'] = dropped
    variants[f'dropout {rate}, equal FLOPs'] = longer
  return Study(
    'Layer dropout',
    'Does skipping layers in training lower or raise the final loss, after '
    'as many updates and for as many FLOPs?',
    variants,
    seeds=(1, 2, 3),
    pairs=tuple((name, 'standard') for name in variants if name != 'standard'),
  )
