"""Exits against models of the depth they stop at, three seeds.

  python -m ease_jax.study.main --study=configs/studies/exits.py \
      --workdir=runs/exits --data=DIR --jobs=2

500,000 characters of WikiText-2, up to eight layers of width 64, all trained
for the same number of updates. The line to beat: standard models of 2, 4, 6
and 8 layers.
"""

from ease_jax import presets
from ease_jax.study.study import Study, with_equal_updates

STEPS = 800


def get_study(data: str) -> Study:
  base = presets.wikitext2(data)
  base.data.train_chars = 500_000
  base.model.num_layers, base.model.readouts = 8, (8,)
  base.optimizer.learning_rate = 3e-3
  base.train.steps, base.evaluate.max_tokens = STEPS, 16_384
  base.train.eval_every = base.train.checkpoint_every = 200
  base.exit.thresholds.max_prob = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
  base.exit.policies, base.exit.search_points = ('copy_state',), 4

  def standard(layers):
    c = base.copy_and_resolve_references()
    c.model.num_layers, c.model.readouts = layers, (layers,)
    return c

  supervised = base.copy_and_resolve_references()
  supervised.model.readouts, supervised.loss.weights = (2, 4, 6, 8), 'linear'
  on_exits = supervised.copy_and_resolve_references()
  on_exits.loss.exit_threshold = 0.6
  irt = base.copy_and_resolve_references()
  irt.model.body, irt.model.segments, irt.model.num_layers = 'refine', 2, 4
  irt.model.readouts, irt.loss.weights = (4,), 'segment_ends'
  both = irt.copy_and_resolve_references()
  both.model.readouts, both.loss.weights = (2, 4), 'linear'
  hrm = irt.copy_and_resolve_references()
  hrm.model.body, hrm.model.num_layers, hrm.model.readouts = 'hrm', 1, ()
  hrm.model.cycle_steps = 1  # 4 layers deep in a segment
  hrm.model.carry_init, hrm.model.block_norm = 'fixed', 'post'
  hrm.train.updates, hrm.exit.signals = 'per_segment', ('q_halt', 'max_prob')
  hrm.exit.policies, hrm.exit.policy = ('latest',), 'latest'
  frontier = {f'standard, {l} layers': standard(l) for l in (2, 4, 6, 8)}
  variants = frontier | {
    'ds': supervised,
    'ds, trained on exits': on_exits,
    'irt': irt,
    'ds + irt': both,
    'hrm': with_equal_updates(hrm, base),
  }
  full = 'standard, 8 layers'
  return Study(
    'Exits against smaller models',
    'Does stopping early in a deep model ever beat a model that is just '
    'that deep?',
    variants,
    seeds=(0, 1, 2),
    pairs=tuple((name, full) for name in variants if name not in frontier),
    frontier=tuple(frontier),
  )
