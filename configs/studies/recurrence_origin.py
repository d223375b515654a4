"""Recurrence with the layer of the memo's code, on as much text as is read.

  python -m ease_jax.study.main --study=configs/studies/recurrence_origin.py \
      --workdir=runs/recurrence_origin --jobs=2

Cost: 12 runs of one to four minutes each on one core. Test perplexity of three
seeds (`docs/results.md`): standard_4 4.487, standard_8 4.840, recurrent 4.472,
and four layers at the training FLOPs of the recurrent model 4.020. Built-in
text, bytes, width 64, 360 updates, as `recurrence.py`; norms after each sum, a
gated MLP of 3/2 the size.

Expected before the first run: recurrence gains as large a share of own layers
as with our layer (some 70 %), and loses at equal training FLOPs as there.
"""

from ease_jax import presets
from ease_jax.study.equal import with_equal_training
from ease_jax.study.study import Study

VOCAB = 257  # bytes, and the end of a text


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  four = presets.origin(presets.brief(presets.standard(4)))
  eight = presets.brief(presets.standard(8))
  twice = presets.origin(presets.recurrent(eight, segments=2, num_layers=4))
  return Study(
    "Recurrence with the layer of the memo's code",
    'What do four layers that run twice bring, beside layers of their own?',
    {
      'standard_4': four,
      'standard_8': presets.origin(eight),
      'recurrent': twice,
      'standard_4, FLOPs': with_equal_training(four, twice, VOCAB),
    },
    seeds=(1, 2, 3),
    pairs=(
      ('recurrent', 'standard_4'),
      ('recurrent', 'standard_8'),
      ('recurrent', 'standard_4, FLOPs'),
    ),
    recoveries=(('recurrent', 'standard_4', 'standard_8'),),
  )
