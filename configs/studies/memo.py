"""The memo's refinement table in its own protocol, five seeds.

  python -m ease_jax.study.main --study=configs/studies/memo.py \
      --workdir=runs/memo_refinement --data=DIR --jobs=2

20,000 characters of WikiText-2, an update per segment, training until five
epochs bring no better loss on 5,000 characters of the select split. One layer
and four layers; `standard, 2 layers` runs as many as IRT does.
"""

from ease_jax import presets
from ease_jax.study.study import Config, Study

CHARS = 20_000
STEPS_PER_EPOCH = CHARS // (16 * 64)
EPOCHS = 60  # more than any run takes


def get_study(data: str) -> Study:
  def standard(layers: int) -> Config:
    c = presets.wikitext2(data)
    c.data.train_chars = CHARS
    c.data.select_chars = 5_000
    c.model.num_layers = layers
    c.model.readouts = (layers,)
    # The memo's rate is constant.
    c.optimizer.warmup_steps = 1
    c.optimizer.final_fraction = 1.0
    c.train.steps = EPOCHS * STEPS_PER_EPOCH
    c.train.eval_every = STEPS_PER_EPOCH
    c.train.checkpoint_every = STEPS_PER_EPOCH
    c.train.patience = 5
    c.exit.thresholds.max_prob = (0.5, 0.7, 0.9)
    c.exit.search_points = 0
    return c

  def irt(layers: int) -> Config:
    c = presets.refinement(standard(layers), segments=2, num_layers=layers)
    c.model.refine.carry_init = 'learned'
    c.loss.weights = 'segment_ends'
    c.train.updates = 'per_segment'
    return c

  def supervised(c: Config) -> Config:
    c = c.copy_and_resolve_references()
    c.model.readouts = ()
    c.loss.weights = 'uniform'
    return c

  def hrm(layers: int) -> Config:
    c = presets.hrm(standard(layers), segments=2, num_layers=layers)
    c.train.updates = 'per_segment'
    return c

  variants = {
    'standard': standard(1),
    'standard, 2 layers': standard(2),
    'irt': irt(1),
    'hrm': hrm(1),
    'standard, 4 layers': standard(4),
    'irt, 4 layers': irt(4),
    'ds, 4 layers': supervised(standard(4)),
    'ds + irt, 4 layers': supervised(irt(4)),
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
