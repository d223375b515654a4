"""Does recurrence pay where text is short, or with the memo's layer?

  python -m ease_jax.study.main --study=configs/studies/layer_and_text.py \
      --workdir=runs/layer_and_text --jobs=2

Cost: 30 runs of one to four minutes each on one core. Built-in text, bytes,
width 64, four layers, the same four run twice, and eight. `origin`: the layer
of the memo's code (norms after each sum, gated MLP of 3/2 the size). Without a
word all of the text is read in 360 updates, less than once; `little` has its
first 60,000 characters at a constant rate until 150 updates, five times the
text, bring no better loss on select. Those that say FLOPs are trained for as
many FLOPs as the recurrent model beside them.

Expected before the first run: with little text more updates bring nothing, so
that the recurrent model is better than its twin at any training FLOPs, by 1 to
3 %, and eight own layers no better than it. With much text and the origin's
layer recurrence gains as large a share of own layers as with ours (some 70 %)
and loses at equal training FLOPs as ours does.
"""

from ease_jax import presets
from ease_jax.study.equal import with_equal_training
from ease_jax.study.study import Config, Study

VOCAB = 257  # bytes, and the end of a text


def origin(c: Config) -> Config:
  """With the layer of the origin code."""
  c = c.copy_and_resolve_references()
  c.model.block.norm = 'post'
  c.model.block.mlp.kind = 'swiglu'
  return c


def little(c: Config) -> Config:
  """On 60,000 characters, until no update brings a better loss."""
  c = c.copy_and_resolve_references()
  c.data.train_chars = 60_000
  c.optimizer.final_fraction = 1.0
  c.train.steps = 1500
  c.train.eval_every = 30
  c.train.checkpoint_every = 30
  c.train.patience = 5
  return c


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  four = presets.brief(presets.standard(4))
  eight = presets.brief(presets.standard(8))
  twice = presets.recurrent(eight, segments=2, num_layers=4)
  origin_equal = with_equal_training(origin(four), origin(twice), VOCAB)
  return Study(
    'Recurrence, the layer and the length of the text',
    'Where do four layers that run twice beat four that run once?',
    {
      'standard_4, origin': origin(four),
      'standard_8, origin': origin(eight),
      'recurrent, origin': origin(twice),
      'standard_4, origin, FLOPs': origin_equal,
      'standard_4, little': little(four),
      'standard_8, little': little(eight),
      'recurrent, little': little(twice),
      'standard_4, origin, little': little(origin(four)),
      'standard_8, origin, little': little(origin(eight)),
      'recurrent, origin, little': little(origin(twice)),
    },
    seeds=(1, 2, 3),
    pairs=(
      ('recurrent, origin', 'standard_4, origin'),
      ('recurrent, origin', 'standard_8, origin'),
      ('recurrent, origin', 'standard_4, origin, FLOPs'),
      ('recurrent, little', 'standard_4, little'),
      ('recurrent, little', 'standard_8, little'),
      ('recurrent, origin, little', 'standard_4, origin, little'),
      ('recurrent, origin, little', 'standard_8, origin, little'),
      ('recurrent, origin, little', 'recurrent, little'),
    ),
    recoveries=(
      ('recurrent, origin', 'standard_4, origin', 'standard_8, origin'),
      ('recurrent, little', 'standard_4, little', 'standard_8, little'),
      (
        'recurrent, origin, little',
        'standard_4, origin, little',
        'standard_8, origin, little',
      ),
    ),
  )
