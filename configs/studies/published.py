"""Published recurrent methods beside a standard model of equal training FLOPs.

  python -m ease_jax.study.main --study=configs/studies/published.py \
      --workdir=runs/published --jobs=2

Cost: 24 runs of two to five minutes each on one core. Test perplexity of seed 1
(others were not run): standard 4.325, hrm_text 4.503, huginn 4.596, tah 4.849,
ouro 4.972, parcae 5.217, loopformer 5.457, trm 6.387. Built-in text, bytes,
width 64. The methods have the shape of their configs (`configs/huginn.py`,
`ouro.py`, `hrm_text.py`, `trm.py`, `tah.py`, `parcae.py`, `loopformer.py`) and
as many updates as cost what 360 of the standard model's eight layers do.

Expected before the first run: none is as good as the standard model; TaH and
LoopFormer come nearest (5 to 10 % above it), TRM with an update per segment is
the farthest (20 % and more), drawn numbers of runs cost Huginn and Parcae 10 to
15 %.
"""

from ease_jax import presets
from ease_jax.study.equal import with_equal_training
from ease_jax.study.study import Config, Study

VOCAB = 257  # bytes, and the end of a text


def latest(c: Config) -> Config:
  """Tokens that stop show what their last run made."""
  c.exit.policies = ('latest',)
  c.exit.policy = 'latest'
  return c


def trm(c: Config) -> Config:
  """With an update after each segment."""
  c = presets.trm(c, segments=2, num_layers=1)
  c.train.updates = 'per_segment'
  return latest(c)


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  standard = presets.brief(presets.standard(8))
  small = presets.brief(presets.small())
  methods = {
    'huginn': latest(presets.huginn(small, segments=4, num_layers=2, own=1)),
    'ouro': latest(presets.ouro(small, segments=3, num_layers=3)),
    'hrm_text': presets.hrm_text(small, num_layers=1),
    'trm': trm(small),
    'tah': presets.tah(small, num_layers=4),
    'parcae': latest(presets.parcae(small, segments=4, num_layers=2, own=1)),
    'loopformer': presets.loopformer(small, segments=4, num_layers=2),
  }
  equal = {
    name: with_equal_training(c, standard, VOCAB) for name, c in methods.items()
  }
  return Study(
    'Published recurrent methods',
    'What do they come to at equal training FLOPs?',
    {'standard': standard} | equal,
    seeds=(1, 2, 3),
    pairs=tuple((name, 'standard') for name in methods),
  )
