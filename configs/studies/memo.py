"""The memo's refinement table in its own protocol, five seeds.

  python -m ease_jax.study.main --study=configs/studies/memo.py \
      --workdir=runs/memo_refinement --data=DIR --jobs=2

20,000 characters of WikiText-2, an update per segment, training until five
epochs bring no better loss on 5,000 characters of the select split. One layer
and four layers; `standard, 2 layers` runs as many as IRT does.
"""

import functools

from ease_jax import presets
from ease_jax.study.study import Study


def get_study(data: str) -> Study:
  standard = functools.partial(presets.memo, data)
  irt = functools.partial(presets.memo_irt, data)

  hrm = functools.partial(presets.memo_hrm, data)

  variants = {
    'standard': standard(1),
    'standard, 2 layers': standard(2),
    'irt': irt(1),
    'hrm': hrm(1),
    'standard, 4 layers': standard(4),
    'irt, 4 layers': irt(4),
    'ds, 4 layers': presets.every_layer(standard(4)),
    'ds + irt, 4 layers': presets.every_layer(irt(4)),
    'hrm, 2 + 2 layers': hrm(2),
  }
  return Study(
    'Refinement in the protocol of the memo',
    'Does running the same layers twice, with an update after each run, '
    'give a better model than running them once?',
    variants,
    seeds=(0, 1, 2, 3, 4),
    pairs=(
      ('irt', 'standard'),
      ('irt', 'standard, 2 layers'),
      ('hrm', 'standard'),
      ('irt, 4 layers', 'standard, 4 layers'),
      ('ds, 4 layers', 'standard, 4 layers'),
      ('ds + irt, 4 layers', 'standard, 4 layers'),
      ('ds + irt, 4 layers', 'ds, 4 layers'),
      ('ds + irt, 4 layers', 'irt, 4 layers'),
      ('hrm, 2 + 2 layers', 'standard, 4 layers'),
    ),
  )
