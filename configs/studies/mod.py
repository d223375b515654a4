"""Mixture-of-Depths against standard models and early exits, three seeds.

  python -m ease_jax.study.main --study=configs/studies/mod.py \
      --workdir=runs/mod_study

Cost: twelve runs of some four minutes on one core. All spend the training
FLOPs of `standard`, 360 updates of 16 windows of 128 bytes of the built-in
text, width 64: an update that costs less buys more of them. `mod` has a router
on every other of its eight layers, capacity 1/8, so that a token runs some four
and a half. The standard model of four layers costs as little: what a smaller
model reaches with more updates is no merit of a router. The exits of `exits`
are chosen to cost what `mod` does at inference; the line of the figure is that
of the two standard models.

On test: `mod` 4.063 ± 0.033 is 7.2 % [2.9, 11.2] below `standard`, and 4.0 %
[0.8, 7.4] above the four layers, which cost less.
"""

from ease_jax import presets
from ease_jax.study.equal import with_equal_training
from ease_jax.study.study import Config, Study

VOCAB = 257  # bytes, and the end of a text
MOD_COMPUTE = 0.58  # of a full pass: 4.5 of 8 layers, routers and a head


def mixture(c: Config) -> Config:
  """The paper's: every other layer, an eighth of the tokens."""
  c = c.copy_and_resolve_references()
  c.model.router = 'mod'
  return c


def supervised(c: Config) -> Config:
  """Deep supervision: four readouts, deeper ones weigh more."""
  c = c.copy_and_resolve_references()
  c.model.readouts = (2, 4, 6, 8)
  c.loss.weights = 'linear'
  c.exit.max_compute = MOD_COMPUTE
  return c


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  base = presets.brief(presets.standard(8))
  configs = {
    'standard': base,
    'standard, 4 layers': presets.brief(presets.standard(4)),
    'mod': mixture(base),
    'exits': supervised(base),
  }
  variants = {
    name: with_equal_training(c, base, VOCAB) for name, c in configs.items()
  }
  return Study(
    'Mixture-of-Depths at equal compute',
    'At equal training FLOPs, is Mixture-of-Depths better than a standard '
    'model, and, at equal inference FLOPs, better than early exits and than a '
    'smaller standard model?',
    variants,
    seeds=(1, 2, 3),
    pairs=(
      ('mod', 'standard'),
      ('mod', 'standard, 4 layers'),
      ('exits', 'standard'),
      ('mod', 'exits'),
    ),
    frontier=('standard, 4 layers', 'standard'),
  )
