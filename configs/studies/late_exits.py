"""Exits that come late against exits that were trained with the model.

  python -m ease_jax.study.main --study=configs/studies/late_exits.py \
      --workdir=runs/late_exits_study --jobs=2

Twelve layers of width 128 on pieces of words (`presets.larger`), 1,600 updates
of the final loss alone. What comes late starts from that run, which stays as it
was but for the last line, and learns for 300 updates what its last layer says.

Cost: 35 and 28 minutes for the first two runs, 7 to 29 for the others, two at
a time, beside other work on 2 slow cores; the last line was not run. Seed 1
alone was run (`--seeds=1`). On test, the final loss alone has a perplexity of
21.17 behind layer 12 and of 2,546, 719 and 87.8 behind layers 3, 6 and 9; all
losses from the start, with the same training FLOPs, have 29.03 and 35.5, 30.5
and 29.2 (`docs/lab_notes.md`).
"""

from ease_jax import presets
from ease_jax.study.equal import stretched, with_equal_training
from ease_jax.study.study import Config, Study

VOCAB = 4096
LATE = 300  # updates
BASE = 'final loss alone'
JOINT = 'all losses from the start'
MORE = 'all losses for more updates'
ADAPTERS = {
  'norms': (),
  'tuned lens': ('map',),
  'maps and MLPs': ('map', 'mlp'),
  'own blocks': ('block',),
}


def joint(c: Config) -> Config:
  """All readouts have a loss from the start, the last one the heaviest."""
  c = c.copy_and_resolve_references()
  c.loss.weights = 'chosen'
  c.loss.chosen = ((3, 0.15), (6, 0.2), (9, 0.25), (12, 0.4))
  return c


def late(c: Config, adapters: tuple[str, ...]) -> Config:
  """Readouts of a frozen model learn what its last one says."""
  c = presets.late_exits(c, BASE, adapters)
  c = stretched(c, LATE / c.train.steps)
  if adapters == ('map',):
    c.train.fit_tokens = 0  # Belrose et al. 2303.08112 begin at the identity
  return c


def fitted(c: Config) -> Config:
  """Maps in closed form, and nothing that learns."""
  c = presets.late_exits(c, BASE, ('map',))
  c.train.steps = 0
  c.optimizer.warmup_steps = 0
  return c


def more(c: Config) -> Config:
  """All of the model goes on with all losses, as in LayerSkip (2404.16710)."""
  c = joint(c)
  c.train.init_from = BASE
  c.optimizer.learning_rate *= 0.2
  c.optimizer.muon_learning_rate *= 0.2
  return stretched(c, LATE / c.train.steps)


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  base = presets.larger()
  variants = {
    BASE: base,
    JOINT: with_equal_training(joint(base), base, VOCAB),
    'fitted maps': fitted(base),
  }
  for name, adapters in ADAPTERS.items():
    variants[name] = late(base, adapters)
  variants[MORE] = more(base)

  come_late = [name for name in variants if name not in (BASE, JOINT)]
  return Study(
    'Exits that come late',
    'What do exits know, and save, that are made for a finished model, beside '
    'those that were trained with it?',
    variants,
    seeds=(1, 2, 3),
    pairs=tuple((name, BASE) for name in variants if name != BASE),
    starts=tuple((name, BASE) for name in come_late),
  )
