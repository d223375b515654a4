"""Learning rates of the quickstart's study, chosen on select with seed 0.

  python -m ease_jax.study.main --study=configs/studies/quickstart_rates.py \
      --workdir=runs/quickstart_rates

Cost: half an hour on 2 cores. Exits and a standard model get the same three
pairs of rates; the column `select ppl` chooses. One seed ranks nothing: it is
here to choose, and no study reports it.
"""

from ease_jax import presets
from ease_jax.study.equal import with_equal_training
from ease_jax.study.study import Config, Study

VOCAB = 257  # bytes, and the end of a text
FACTORS = (0.5, 1.0, 2.0)


def with_rates(c: Config, factor: float) -> Config:
  c = c.copy_and_resolve_references()
  c.optimizer.learning_rate *= factor
  c.optimizer.muon_learning_rate *= factor
  return c


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  exits = presets.exits()
  kinds = {
    'exits': exits,
    'standard, 6 layers': with_equal_training(
      presets.standard(6), exits, VOCAB
    ),
  }
  return Study(
    'Learning rates of the quickstart',
    'Which of three pairs of rates has the lowest select perplexity?',
    {
      f'{name}, rates x {factor:g}': with_rates(c, factor)
      for name, c in kinds.items()
      for factor in FACTORS
    },
    seeds=(0,),
    pairs=(),
  )
