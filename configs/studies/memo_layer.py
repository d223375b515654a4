"""The memo's refinement table with the layer of its code, five seeds.

  python -m ease_jax.study.main --study=configs/studies/memo_layer.py \
      --workdir=runs/memo_layer --data=DIR --jobs=2

Cost: 70 runs; 40 took half a minute each on one core, the others and five of
them 41 minutes beside other work. Test perplexity on five seeds
(`docs/results.md`): standard 12.81, irt 13.00; with the layer of the origin
14.21 and 12.48, two layers of it 12.36, four 12.80, with irt 12.46, ds 12.16,
both 12.62, hrm 14.68. Protocol of `memo.py`. The layer of the origin
code norms after each sum and has a gated MLP, 3/2 the size; ours norms before
each branch. `more` has twice the rate, `updates` makes two updates of each
batch of half as many windows, as IRT makes two of each batch.
The other lines of `memo.py` follow, with the layer of the origin alone.

Expected before the first run: with the origin's layer IRT is 2 to 4 % better
than the standard model, as it was in two runs of that code (12.28 and 12.15
for 12.82), and most of it is gone against a standard model with as many
updates or a higher rate: that one was trained too little. Before the lines of
four layers ran: IRT is worse there than the standard model, as the memo saw
with one seed (11.84 for 10.90), deep supervision 2 to 6 % better, HRM between.
Only the second is so.
"""

from ease_jax import presets
from ease_jax.study.study import Config, Study


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
  four = presets.origin(presets.memo(data, 4))
  four_twice = presets.origin(presets.memo_irt(data, 4))

  return Study(
    "The memo's refinement with the layer of its code",
    'Does IRT beat a standard model of that layer, and one that was trained '
    'as much?',
    {
      'standard': standard,
      'irt': irt,
      'standard, origin': presets.origin(standard),
      'irt, origin': presets.origin(irt),
      'standard, origin, more': more(presets.origin(standard)),
      'irt, origin, more': more(presets.origin(irt)),
      'standard, origin, updates': updates(presets.origin(standard)),
      'standard, origin, 2 layers': presets.origin(presets.memo(data, 2)),
      'hrm, origin': presets.origin(presets.memo_hrm(data, 1)),
      'standard, origin, 4 layers': four,
      'irt, origin, 4 layers': four_twice,
      'ds, origin, 4 layers': presets.every_layer(four),
      'ds + irt, origin, 4 layers': presets.every_layer(four_twice),
      'hrm, origin, 2 + 2 layers': presets.origin(presets.memo_hrm(data, 2)),
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
      ('hrm, origin', 'standard, origin'),
      ('irt, origin, 4 layers', 'standard, origin, 4 layers'),
      ('ds, origin, 4 layers', 'standard, origin, 4 layers'),
      ('ds + irt, origin, 4 layers', 'standard, origin, 4 layers'),
      ('ds + irt, origin, 4 layers', 'ds, origin, 4 layers'),
      ('ds + irt, origin, 4 layers', 'irt, origin, 4 layers'),
      ('hrm, origin, 2 + 2 layers', 'standard, origin, 4 layers'),
    ),
  )
