"""HRM and TRM: detached or joined, hierarchy or flat recurrence.

  python -m ease_jax.study.main --study=configs/studies/hierarchy.py \
      --workdir=runs/hierarchy --jobs=2

Cost: 18 runs of one to three minutes each on one core. Test perplexity of three
seeds: hrm 4.987 detached, 4.750 joined; trm 5.258 and 4.962; flat 4.661; six
own layers 4.491 (`docs/results.md`). Built-in text, bytes, width 64, 360
updates, one segment, one loss at its end. HRM: two modules of one layer, two
cycles of two low updates and a high one, six cells; TRM: one module, two cycles
of three and one, eight cells; `flat`: two layers three times, six cells, with
injection and norm; `standard`: six layers of their own.

Expected before the first run: with gradients through all updates HRM gains
several per cent, TRM as well; flat recurrence with its joined gradient is as
good as joined HRM; own layers are better than all of them.
"""

from ease_jax import presets
from ease_jax.study.study import Config, Study


def hrm(c: Config, backprop: int) -> Config:
  """HRM-Text's states, with gradients through so many updates."""
  c = presets.hrm_text(c, num_layers=1)
  c.model.hrm.cycle_steps = 2
  c.model.hrm.backprop = backprop
  c.model.hrm.carry_init = 'fixed'
  return c


def trm(c: Config, backprop: int) -> Config:
  """The same with one module for both states."""
  c = hrm(c, backprop=2)
  c.model.hrm.shared = True
  c.model.hrm.cycle_steps = 3
  c.model.hrm.backprop = backprop
  return c


def get_study(data: str) -> Study:
  del data  # the running Python's library is the text
  standard = presets.brief(presets.standard(6))
  return Study(
    'Hierarchy and gradients',
    'Does a hierarchy of two states bring more than flat recurrence?',
    {
      'hrm, detached': hrm(standard, backprop=2),
      'hrm, joined': hrm(standard, backprop=6),
      'trm, detached': trm(standard, backprop=4),
      'trm, joined': trm(standard, backprop=8),
      'flat': presets.recurrent(standard, segments=3, num_layers=2),
      'standard': standard,
    },
    seeds=(1, 2, 3),
    pairs=(
      ('hrm, joined', 'hrm, detached'),
      ('trm, joined', 'trm, detached'),
      ('hrm, joined', 'flat'),
      ('trm, joined', 'flat'),
      ('flat', 'standard'),
    ),
  )
