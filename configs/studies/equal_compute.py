"""Deep supervision x refinement at equal training FLOPs, three seeds.

  python -m ease_jax.study.main --study=configs/studies/equal_compute.py \
      --workdir=runs/equal_compute --data=DIR --jobs=2

500,000 characters of WikiText-2, four layers of width 64. `standard` is
trained for 1,000 updates; whoever costs more per update gets fewer, so that
all spend the same. `1 layer` and what is held against it the same way.
"""

from ease_jax import presets
from ease_jax.study.equal import with_equal_depth, with_equal_training
from ease_jax.study.study import Config, Study

VOCAB = 172  # of this text; the table says what the runs really cost
STEPS = 1000


def standard(data: str) -> Config:
  c = presets.wikitext2(data)
  c.data.train_chars = 500_000
  c.model.num_layers = 4
  c.model.readouts = (4,)
  c.optimizer.learning_rate = 3e-3
  c.train.steps = STEPS
  c.train.eval_every = 250
  c.train.checkpoint_every = 250
  c.exit.thresholds.max_prob = (0.5, 0.7, 0.9)
  c.exit.search_points = 0
  return c


def refined(c: Config) -> Config:
  """IRT: the same layers twice, a loss at the end of each segment."""
  c = c.copy_and_resolve_references()
  c = presets.refinement(c, segments=2, num_layers=c.model.num_layers)
  c.loss.weights = 'segment_ends'
  return c


def hierarchical(c: Config) -> Config:
  """HRM, 8 layers deep in a segment, 4 of them its own."""
  c = c.copy_and_resolve_references()
  c = presets.hrm(c, segments=2, num_layers=2)
  c.model.hrm.cycle_steps = 1
  return c


def per_segment(c: Config) -> Config:
  c = c.copy_and_resolve_references()
  c.train.updates = 'per_segment'
  return c


def one_layer(c: Config) -> Config:
  c = c.copy_and_resolve_references()
  c.model.num_layers = 1
  c.model.readouts = (1,)
  return c


def get_study(data: str) -> Study:
  base = standard(data)
  irt = refined(base)
  both = presets.every_layer(irt)
  hrm = per_segment(hierarchical(base))

  single = one_layer(base)
  single_irt = one_layer(irt)

  def equal(c: Config) -> Config:
    return with_equal_training(c, base, VOCAB)

  def equal_1(c: Config) -> Config:
    return with_equal_training(c, single, VOCAB)

  variants = {
    'standard': base,
    'ds': equal(presets.every_layer(base)),
    'irt': equal(irt),
    'irt, update per segment': equal(per_segment(irt)),
    'ds + irt': equal(both),
    'ds + irt, update per segment': equal(per_segment(both)),
    'hrm': equal(hrm),
    'standard, 8 layers': equal(with_equal_depth(base, irt)),
    'standard, 1 layer': single,
    'irt, 1 layer': equal_1(single_irt),
    'irt, 1 layer, update per segment': equal_1(per_segment(single_irt)),
    'standard, 2 layers': equal_1(with_equal_depth(single, single_irt)),
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
