"""The quickstart trained four times as long: do exits save anything then?

  python -m ease_jax.study.main --study=configs/studies/longer.py \
      --workdir=runs/longer

Cost: twelve runs; 7 minutes on one H200, all at a time (`--jobs=12`), where
`XLA_PYTHON_CLIENT_PREALLOCATE=false` lets them share it; hours on 2 cores (not
tried). All spend the FLOPs of 4,800 updates of `presets.exits`, four times the
quickstart's. `standard, 8 layers` is the final loss alone, in its shape; the
line to beat is that of 3 and 6 layers, as in `quickstart.py`.

On test (Python 3.12's library, float32 products in full): a perplexity of 2.755
± 0.023 at full depth, and 2.780 ± 0.020 with exits at 71.1 ± 0.7 % of its
compute. Standard models: 2.815 ± 0.034 of 3 layers, 2.699 ± 0.024 of 6, 2.763
± 0.084 of 8 (`docs/results.md`).
"""

from ease_jax import presets
from ease_jax.study.equal import stretched, with_equal_training
from ease_jax.study.study import Config, Study

VOCAB = 257  # bytes, and the end of a text
LENGTH = 4  # times the quickstart's training
LINE = (3, 6)
LAYERS = (*LINE, 8)


def plain(c: Config) -> Config:
  """One K/V policy, and no clock: runs share a device."""
  c = c.copy_and_resolve_references()
  c.exit.policies = ('copy_state',)
  c.evaluate.speed_tokens = 0
  return c


def name_of(layers: int) -> str:
  return f'standard, {layers} layers'


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  like = stretched(presets.exits(), LENGTH)
  configs = {'quickstart': presets.quickstart()}
  for layers in LAYERS:
    configs[name_of(layers)] = presets.standard(layers)

  variants = {
    name: plain(with_equal_training(c, like, VOCAB))
    for name, c in configs.items()
  }
  others = tuple(map(name_of, LAYERS))
  return Study(
    'The quickstart, four times as long',
    'With more training, do exits save what a smaller standard model, trained '
    'with the same FLOPs, would not?',
    variants,
    seeds=(1, 2, 3),
    pairs=tuple(('quickstart', other) for other in others),
    frontier=tuple(map(name_of, LINE)),
  )
