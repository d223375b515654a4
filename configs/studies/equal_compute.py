"""Deep supervision x refinement at equal training FLOPs, three seeds.

  python -m ease_jax.study.main --study=configs/studies/equal_compute.py \
      --workdir=runs/equal_compute --data=DIR --jobs=2

500,000 characters of WikiText-2, four layers of width 64. `standard` is
trained for 1,000 updates; whoever costs more per update gets fewer, so that
all spend the same. `1 layer` and what is held against it the same way.
"""

from ease_jax import presets
from ease_jax.study.study import (
  Study,
  with_equal_depth,
  with_equal_training,
)

VOCAB = 172  # of this text; the table says what the runs really cost
STEPS = 1000


def get_study(data: str) -> Study:
  base = presets.wikitext2(data)
  base.data.train_chars = 500_000
  base.model.num_layers, base.model.readouts = 4, (4,)
  base.optimizer.learning_rate = 3e-3
  base.train.steps = STEPS
  base.train.eval_every = base.train.checkpoint_every = 250
  base.exit.thresholds.max_prob = (0.5, 0.7, 0.9)
  base.exit.search_points = 0

  supervised = base.copy_and_resolve_references()
  supervised.model.readouts, supervised.loss.weights = (), 'uniform'
  irt = base.copy_and_resolve_references()
  irt.model.body, irt.model.segments = 'refine', 2
  irt.loss.weights = 'segment_ends'
  both = irt.copy_and_resolve_references()
  both.model.readouts, both.loss.weights = (), 'uniform'
  hrm = irt.copy_and_resolve_references()
  hrm.model.body, hrm.model.num_layers, hrm.model.readouts = 'hrm', 2, ()
  hrm.model.cycle_steps = 1  # 8 layers deep in a segment, 4 of them its own
  hrm.model.carry_init, hrm.model.block_norm = 'fixed', 'post'

  def per_segment(c):
    c = c.copy_and_resolve_references()
    c.train.updates = 'per_segment'
    return c

  def one_layer(c):
    c = c.copy_and_resolve_references()
    c.model.num_layers, c.model.readouts = 1, (1,)
    return c

  equal = lambda c: with_equal_training(c, base, VOCAB)
  single = one_layer(base)
  equal_1 = lambda c: with_equal_training(c, single, VOCAB)
  variants = {
    'standard': base,
    'ds': equal(supervised),
    'irt': equal(irt),
    'irt, update per segment': equal(per_segment(irt)),
    'ds + irt': equal(both),
    'ds + irt, update per segment': equal(per_segment(both)),
    'hrm': equal(per_segment(hrm)),
    'standard, 8 layers': equal(with_equal_depth(base, irt)),
    'standard, 1 layer': single,
    'irt, 1 layer': equal_1(one_layer(irt)),
    'irt, 1 layer, update per segment': equal_1(per_segment(one_layer(irt))),
    'standard, 2 layers': equal_1(with_equal_depth(single, one_layer(irt))),
  }
  return Study(
    'Refinement at equal training compute',
    'Which gains of deep supervision and refinement are left when everyone '
    'may spend the same, and does their combination beat both?',
    variants,
    seeds=(0, 1, 2),
    pairs=(
      ('ds', 'standard'),
      ('irt', 'standard'),
      ('irt, update per segment', 'standard'),
      ('ds + irt', 'standard'),
      ('ds + irt', 'ds'),
      ('ds + irt', 'irt'),
      ('ds + irt, update per segment', 'irt, update per segment'),
      ('irt', 'standard, 8 layers'),
      ('hrm', 'standard'),
      ('irt, 1 layer', 'standard, 1 layer'),
      ('irt, 1 layer, update per segment', 'standard, 1 layer'),
      ('irt, 1 layer', 'standard, 2 layers'),
    ),
  )
