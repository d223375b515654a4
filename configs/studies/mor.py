"""Mixture-of-Recursions against the same cycle without a router, three seeds.

  python -m ease_jax.study.main --study=configs/studies/mor.py \
      --workdir=runs/mor_study

Cost: nine runs of some three minutes on one core. On test a perplexity of 4.376
(`standard`), 4.522 (`cycle`) and 4.189 (`mor`); more in `docs/results.md`. All
spend the training FLOPs of `standard`, 360 updates of 16 windows of 128 bytes
of the built-in text, width 64. `cycle` is a layer, two layers three times, and
a layer: as deep as the eight of `standard`, with half of its parameters. `mor`
lets all tokens run the two layers once, two thirds twice and a third three
times, in training; at inference each token decides.
"""

from ease_jax import presets
from ease_jax.study.equal import with_equal_training
from ease_jax.study.study import Config, Study

VOCAB = 257  # bytes, and the end of a text


def cycle(c: Config) -> Config:
  """The six layers in the middle are two, three times."""
  c = c.copy_and_resolve_references()
  c.model.body = 'cycle'
  return c


def recursions(c: Config) -> Config:
  """Tokens choose how often they run the two."""
  c = cycle(c)
  c.model.router = 'mor'
  return c


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  base = presets.brief(presets.standard(8))
  configs = {
    'standard': base,
    'cycle': cycle(base),
    'mor': recursions(base),
  }
  variants = {
    name: with_equal_training(c, base, VOCAB) for name, c in configs.items()
  }
  return Study(
    'Mixture-of-Recursions at equal training compute',
    'Is a cycle whose tokens choose how often they run better than one that '
    'all tokens run, and than as many layers of their own?',
    variants,
    seeds=(1, 2, 3),
    pairs=(('mor', 'cycle'), ('mor', 'standard'), ('cycle', 'standard')),
  )
