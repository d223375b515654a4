"""Exits against models of the depth they stop at, three seeds.

  python -m ease_jax.study.main --study=configs/studies/exits.py \
      --workdir=runs/exits --data=DIR --jobs=2

500,000 characters of WikiText-2, up to eight layers of width 64, all trained
for the same number of updates. The line to beat: standard models of 2, 4, 6
and 8 layers.
"""

from ease_jax import presets
from ease_jax.study.equal import with_equal_updates
from ease_jax.study.study import Config, Study

STEPS = 800


def standard(data: str, layers: int) -> Config:
  c = presets.wikitext2(data)
  c.data.train_chars = 500_000
  c.model.num_layers = layers
  c.model.readouts = (layers,)
  c.optimizer.learning_rate = 3e-3
  c.train.steps = STEPS
  c.train.eval_every = 200
  c.train.checkpoint_every = 200
  c.evaluate.max_tokens = 16_384
  c.exit.thresholds.max_prob = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
  c.exit.policies = ('copy_state',)
  c.exit.search_points = 4
  return c


def supervised(c: Config, readouts: tuple[int, ...]) -> Config:
  """Deep supervision: deeper readouts weigh more."""
  c = c.copy_and_resolve_references()
  c.model.readouts = readouts
  c.loss.weights = 'linear'
  return c


def trained_on_exits(c: Config) -> Config:
  c = c.copy_and_resolve_references()
  c.loss.exit_threshold = 0.6
  return c


def refined(c: Config) -> Config:
  """IRT: half of the layers, twice."""
  c = c.copy_and_resolve_references()
  c = presets.refinement(c, segments=2, num_layers=4)
  c.model.readouts = (4,)
  c.loss.weights = 'segment_ends'
  return c


def hierarchical(c: Config) -> Config:
  """HRM, 4 layers deep in a segment, halting by its own values."""
  c = c.copy_and_resolve_references()
  c = presets.hrm(c, segments=2, num_layers=1)
  c.model.hrm.cycle_steps = 1
  c.train.updates = 'per_segment'
  c.exit.signals = ('q_halt', 'max_prob')
  c.exit.policies = ('latest',)
  c.exit.policy = 'latest'
  return c


def get_study(data: str) -> Study:
  frontier = {
    f'standard, {layers} layers': standard(data, layers)
    for layers in (2, 4, 6, 8)
  }
  base = frontier['standard, 8 layers']
  ds = supervised(base, (2, 4, 6, 8))
  irt = refined(base)

  variants = frontier | {
    'ds': ds,
    'ds, trained on exits': trained_on_exits(ds),
    'irt': irt,
    'ds + irt': supervised(irt, (2, 4)),
    'hrm': with_equal_updates(hierarchical(base), base),
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
