"""The memo's first line with the layer of its code beside ours, five seeds.

  python -m ease_jax.study.main --study=configs/studies/memo_layer.py \
      --workdir=runs/memo_layer --data=DIR --jobs=2

Cost: 40 runs of half a minute each on one core. Test perplexity on five seeds
(`docs/results.md`): standard 12.81, irt 13.00; with the layer of the origin
14.21 and 12.48, two layers of it 12.36. One layer, protocol of `memo.py`. The
layer of the origin code norms after each sum and has a gated MLP, 3/2 the size;
ours norms before each branch. `more` has twice the rate, `updates` makes two
updates of each batch of half as many windows, as IRT makes two of each batch.

Expected before the first run: with the origin's layer IRT is 2 to 4 % better
than the standard model, as it was in two runs of that code (12.28 and 12.15
for 12.82), and most of it is gone against a standard model with as many
updates or a higher rate: that one was trained too little.
"""

from ease_jax import presets
from ease_jax.study.study import Config, Study


def origin(c: Config) -> Config:
  """With the layer of the origin code."""
  c = c.copy_and_resolve_references()
  c.model.block.norm = 'post'
  c.model.block.mlp.kind = 'swiglu'
  return c


def more(c: Config) -> Config:
  """At twice the rate."""
  c = c.copy_and_resolve_references()
  c.optimizer.learning_rate *= 2
  return c


def updates(c: Config) -> Config:
  """Twice the updates in each epoch, of half as many windows each."""
  c = c.copy_and_resolve_references()
  c.train.batch_size //= 2
  c.train.steps *= 2
  c.train.eval_every *= 2
  c.train.checkpoint_every *= 2
  return c


def get_study(data: str) -> Study:
  standard = presets.memo(data, 1)
  irt = presets.memo_irt(data, 1)
  return Study(
    "The memo's first line with the layer of its code",
    'Does IRT beat a standard model of that layer, and one that was trained '
    'as much?',
    {
      'standard': standard,
      'irt': irt,
      'standard, origin': origin(standard),
      'irt, origin': origin(irt),
      'standard, origin, more': more(origin(standard)),
      'irt, origin, more': more(origin(irt)),
      'standard, origin, updates': updates(origin(standard)),
      'standard, origin, 2 layers': origin(presets.memo(data, 2)),
    },
    seeds=(0, 1, 2, 3, 4),
    pairs=(
      ('irt', 'standard'),
      ('irt, origin', 'standard, origin'),
      ('irt, origin', 'standard'),
      ('irt, origin', 'standard, origin, 2 layers'),
      ('irt, origin', 'standard, origin, more'),
      ('irt, origin', 'standard, origin, updates'),
      ('irt, origin, more', 'standard, origin, more'),
      ('standard, origin', 'standard'),
    ),
  )
