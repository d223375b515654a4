"""Deep supervision x refinement: the memo's union, with a recipe that works.

  python -m ease_jax.study.main --study=configs/studies/union.py \
      --workdir=runs/union --jobs=2

Cost: 12 runs of three to four minutes each on one core. Test perplexity on
three seeds (`docs/results.md`): standard 4.376, supervised 4.412, recurrent
4.450, union 4.550. Built-in text, bytes, width 64, 360 updates. All run eight
cells and are read after 2, 4, 6 and 8: of eight layers, or of four that run
twice (injection, norm, joined gradient). With deep supervision each readout has
a loss (0.15, 0.3, 0.15, 0.4), without it the last alone.

Expected before the first run: the union of both costs at full depth what deep
supervision alone costs, and does not bring back what own layers bring; its
exits at equal FLOPs are those of eight supervised layers, less that distance.
"""

from ease_jax import presets
from ease_jax.study.study import Config, Study

READOUTS = (2, 4, 6, 8)
WEIGHTS = (0.15, 0.3, 0.15, 0.4)


def supervised(c: Config) -> Config:
  """A loss at each of the four readouts."""
  c = c.copy_and_resolve_references()
  runs = c.model.segments
  layers = READOUTS[: len(READOUTS) // runs]
  rows = [[0.0] * c.model.num_layers for _ in range(runs)]
  for number, weight in enumerate(WEIGHTS):
    run, place = divmod(number, len(layers))
    rows[run][layers[place] - 1] = weight
  c.loss.weights = 'matrix'
  c.loss.matrix = tuple(map(tuple, rows))
  return c


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  standard = presets.brief(presets.standard(8))
  recurrent = presets.recurrent(standard, segments=2, num_layers=4)
  standard.model.readouts = READOUTS
  recurrent.model.readouts = READOUTS[:2]
  return Study(
    'Deep supervision and refinement',
    'Does their union pay at full depth, and in exits?',
    {
      'standard': standard,
      'supervised': supervised(standard),
      'recurrent': recurrent,
      'union': supervised(recurrent),
    },
    seeds=(1, 2, 3),
    pairs=(
      ('supervised', 'standard'),
      ('recurrent', 'standard'),
      ('union', 'recurrent'),
      ('union', 'supervised'),
    ),
  )
