"""The memo's refinement table in its own protocol, five seeds.

  python -m ease_jax.study.main --study=configs/studies/memo.py \
      --workdir=runs/memo_refinement --data=DIR --jobs=2

20,000 characters of WikiText-2, an update per segment, training until five
epochs bring no better loss on 5,000 characters of the select split. One layer
and four layers; `standard, 2 layers` runs as many as IRT does.
"""

from ease_jax import presets
from ease_jax.study.study import Study

STEPS_PER_EPOCH = 20_000 // (16 * 64)
EPOCHS = 60  # more than any run takes


def get_study(data: str) -> Study:
  base = presets.wikitext2(data)
  base.data.train_chars, base.data.select_chars = 20_000, 5_000
  base.train.steps = EPOCHS * STEPS_PER_EPOCH
  base.train.eval_every = base.train.checkpoint_every = STEPS_PER_EPOCH
  base.train.patience = 5
  # The memo's rate is constant.
  base.optimizer.warmup_steps, base.optimizer.final_fraction = 1, 1.0
  base.exit.thresholds.max_prob = (0.5, 0.7, 0.9)
  base.exit.search_points = 0

  def standard(layers):
    c = base.copy_and_resolve_references()
    c.model.num_layers, c.model.readouts = layers, (layers,)
    return c

  def supervised(layers):
    c = standard(layers)
    c.model.readouts, c.loss.weights = (), 'uniform'
    return c

  def irt(layers):
    c = standard(layers)
    c.model.body, c.model.segments, c.model.carry_init = 'refine', 2, 'learned'
    c.loss.weights, c.train.updates = 'segment_ends', 'per_segment'
    return c

  def both(layers):
    c = irt(layers)
    c.model.readouts, c.loss.weights = (), 'uniform'
    return c

  def hrm(layers):
    c = irt(layers)
    c.model.body, c.model.carry_init, c.model.readouts = 'hrm', 'fixed', ()
    c.model.block_norm = 'post'
    return c

  variants = {
    'standard': standard(1),
    'standard, 2 layers': standard(2),
    'irt': irt(1),
    'hrm': hrm(1),
    'standard, 4 layers': standard(4),
    'irt, 4 layers': irt(4),
    'ds, 4 layers': supervised(4),
    'ds + irt, 4 layers': both(4),
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
