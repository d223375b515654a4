"""What the quickstart's exits save: against full depth, and smaller models.

  python -m ease_jax.study.main --study=configs/studies/quickstart.py \
      --workdir=runs/quickstart_study

Cost: twelve runs of the quickstart's length; six of them took 70 minutes on a
slow machine's 2 cores, two at a time beside other work. `exits` is the
quickstart without its gate (`configs/exits.py`). The line to beat: standard
models of 3 and of 6 layers. All are trained with the FLOPs of `exits`; the
model of 6 layers costs about what the chosen exits do.
Settings were chosen with seed 0, which is not reported; `quickstart_rates.py`
chooses the rates of both kinds of models alike.

On test: the quickstart's exits have 3.192 ± 0.023 at 1.33e6 FLOPs a token,
+4.9 % [4.0, 5.9] above the line from 3.043 ± 0.020 at 0.73e6 (3 layers) to
3.053 ± 0.007 at 1.41e6 (6 layers); `exits` 3.196 ± 0.030 at 1.39e6.
"""

from ease_jax import presets
from ease_jax.study.equal import with_equal_training
from ease_jax.study.study import Study

VOCAB = 257  # bytes, and the end of a text
LAYERS = (3, 6)


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  like = presets.exits()
  line = {
    f'standard, {layers} layers': with_equal_training(
      presets.standard(layers), like, VOCAB
    )
    for layers in LAYERS
  }
  return Study(
    'The quickstart against smaller models',
    'Do exits save anything that a smaller standard model, trained with the '
    'same FLOPs, would not?',
    {'exits': like, 'quickstart': presets.quickstart()} | line,
    seeds=(1, 2, 3),
    pairs=(
      ('quickstart', 'exits'),
      *(('quickstart', name) for name in line),
    ),
    frontier=tuple(line),
  )
