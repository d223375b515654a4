"""Configs that are equal in something, by design."""

import pathlib

import pytest
from small_run import make_config

from ease_jax import specs
from ease_jax.study import equal, main

ROOT = pathlib.Path(__file__).parent.parent
VOCAB = 50


def refined(c, segments=2, **train):
  c = c.copy_and_resolve_references()
  c.model.update(body='refine', segments=segments)
  c.loss.weights = 'segment_ends'
  c.train.update(train)
  return c


def full_flops(c):
  return specs.from_config(c, VOCAB).body.costs(4.5).full


@pytest.mark.parametrize(
  'segments, updates', [(2, 'joint'), (3, 'per_segment')]
)
def test_equal_training_flops(segments, updates):
  base = make_config('x', 2, steps=1000)
  c = refined(base, segments, updates=updates)
  same = equal.with_equal_training(c, base, VOCAB)

  expected = equal.train_flops(base, VOCAB)
  assert equal.train_flops(same, VOCAB) == pytest.approx(expected, rel=2e-3)
  assert same.train.steps < 510
  assert c.train.steps == 1000  # it was a copy


def test_equal_updates():
  base = make_config('x', 2, steps=1000)
  per_segment = refined(base, updates='per_segment')
  joint = refined(base)
  assert equal.with_equal_updates(per_segment, base).train.steps == 500
  assert equal.with_equal_updates(joint, base).train.steps == 1000


def test_equal_depth():
  base = make_config('x', 2)
  like = refined(base, 3)
  deep = equal.with_equal_depth(base, like)
  assert deep.model.num_layers == 6
  assert full_flops(deep) == full_flops(like)


def lengths(c):
  return (
    c.train.steps,
    c.train.eval_every,
    c.train.checkpoint_every,
    c.optimizer.warmup_steps,
    c.loss.schedule_steps,
  )


def test_a_stretched_run_keeps_the_share_of_its_schedules():
  base = make_config('x', 2, steps=1000, eval_every=100, checkpoint_every=200)
  base.optimizer.warmup_steps = 50
  base.loss.schedule_steps = 300

  assert lengths(equal.stretched(base, 0.5)) == (500, 50, 100, 25, 150)
  assert lengths(equal.stretched(base, 2)) == (2000, 200, 400, 100, 600)
  assert lengths(base) == (1000, 100, 200, 50, 300)  # it was a copy


def test_what_is_off_stays_off_and_the_shortest_is_one_step():
  base = make_config('x', 2, steps=1000, eval_every=100, checkpoint_every=200)
  base.optimizer.warmup_steps = 0
  base.loss.schedule_steps = 1
  assert lengths(equal.stretched(base, 0.25)) == (250, 25, 50, 0, 1)


def test_smaller_twins_of_the_quickstart_train_as_much():
  path = ROOT / 'configs' / 'studies' / 'quickstart.py'
  study = main.load(str(path), 'folder')
  flops = {n: equal.train_flops(c, 257) for n, c in study.variants.items()}
  exits = study.variants['exits']

  # The quickstart makes fewer updates, for which its gates are trained.
  assert flops['quickstart'] == pytest.approx(flops['exits'], rel=3e-3)
  assert len(study.frontier) >= 2
  for name in study.frontier:
    assert flops[name] == pytest.approx(flops['exits'], rel=2e-3)
    twin = study.variants[name]
    assert twin.model.readouts == (twin.model.num_layers,)
    # Deeper ones have more layers, not more of anything else.
    assert twin.model.dim == exits.model.dim
    assert twin.train.batch_size == exits.train.batch_size


def test_equal_compute_is_equal():
  path = ROOT / 'configs' / 'studies' / 'equal_compute.py'
  study = main.load(str(path), 'folder')
  flops = {n: equal.train_flops(c, 172) for n, c in study.variants.items()}

  for name, value in flops.items():
    small = '1 layer' in name or '2 layers' in name
    like = flops['standard, 1 layer' if small else 'standard']
    assert value == pytest.approx(like, rel=0.02), name
