"""The loss over segments: its weights, updates per segment, exits in it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import segmented
from segmented import BATCH, gradient, key_of, spec_of

import tiny
from ease_jax.core.objective import LossSpec
from ease_jax.train import optimizer, segment, update
from ease_jax.train import setting as setting_lib

# ------------------------------------------------------------------- weights


def test_weights_of_updates_per_segment_sum_to_one_in_each():
  spec = LossSpec(
    (1.0, 3.0, 0.0, 2.0), normalize='sum_to_one', segments=2, per_segment=True
  )
  np.testing.assert_array_equal(spec.weights_at(0), [0.25, 0.75, 0, 1])


@pytest.mark.parametrize(
  'step, weight_K',
  [
    (0, (0, 0, 0, 0.5)),  # the last readout is always on
    (3, (0.125, 0.375, 0.25, 0.5)),
    (6, (0.25, 0.75, 0.5, 0.5)),
  ],
)
def test_a_warm_up_lowers_the_updates_of_whole_segments(step, weight_K):
  """Normalised by the unscheduled weights: 4 and 4 here, at every step."""
  spec = LossSpec(
    (1.0, 3.0, 2.0, 2.0),
    'linear_warmup',
    6,
    normalize='sum_to_one',
    segments=2,
    per_segment=True,
  )
  np.testing.assert_array_equal(spec.weights_at(step), weight_K)


def test_a_token_fraction_spares_the_end_of_every_segment():
  spec = LossSpec((1.0, 2.0, 0.0, 1.0), token_fraction=0.25, segments=2)
  assert spec.trained_K == [0.25, 1, 0, 1]


@pytest.mark.parametrize(
  'schedule, step, on_K',
  [
    ('rotate', 1, (0, 1, 0, 1, 0, 1)),
    ('gradual', 3, (0, 0, 1, 1, 1, 1)),
    ('switch_off', 3, (0, 0, 0, 1, 1, 1)),
  ],
)
def test_a_schedule_runs_over_the_whole_grid(schedule, step, on_K):
  spec = spec_of(
    segmented.REFINE, schedule=schedule, schedule_steps=6, rotate_every=2
  )
  expected_K = np.asarray(spec.weight_K, np.float32) * on_K
  np.testing.assert_array_equal(spec.weights_at(step), expected_K)


def test_readouts_that_are_off_change_no_gradient_of_the_others():
  model = segmented.REFINE
  params = tiny.params(model)
  spec = spec_of(model, schedule='rotate', rotate_every=2)
  grads, metrics = gradient(params, model, spec, BATCH, 1)

  on_K = (0, 1, 0, 1, 0, 1)
  weight_K = tuple(w * on for w, on in zip(spec.weight_K, on_K))
  constant = spec_of(model, weight_K=weight_K)
  expected, expected_metrics = gradient(params, model, constant, BATCH)
  tiny.assert_trees_close(grads, expected)
  np.testing.assert_allclose(
    metrics['loss'], expected_metrics['loss'], rtol=1e-6
  )
  for k, on in enumerate(on_K, 1):
    assert (metrics[f'loss_{k}'] != 0) == bool(on)


# --------------------------------------------------------------------- exits


@pytest.mark.parametrize('name', ['refine', 'hrm'])
def test_training_on_exits_is_the_exit_consistent_evaluation(name):
  model = segmented.BODIES[name]
  params = tiny.params(model)
  num = model.grid.num_readouts
  threshold = float(
    np.median(tiny.thresholds(model, params, 'max_prob', BATCH))
  )
  point = tiny.point('max_prob', 'copy_state', threshold)
  walk = tiny.masked(model, params, point, BATCH)
  assert len(np.unique(walk.exit_BxT)) >= 3, 'the exits must be mixed'

  spec = LossSpec(
    (0.0,) * (num - 1) + (1.0,),
    segments=3,
    exit_threshold=threshold,
    exit_rows=1.0,
  )
  _, metrics = gradient(params, model, spec, BATCH)
  np.testing.assert_allclose(
    metrics['loss'], walk.observation.nll.mean(), rtol=1e-5
  )


# ---------------------------------------------------------------- updates


OPTIMIZER = optimizer.OptimizerSpec(
  name='adamw',
  learning_rate=1e-2,
  muon_learning_rate=0.02,
  warmup_steps=0,
  final_fraction=0.1,
  b1=0.9,
  b2=0.95,
  eps=1e-8,
  weight_decay=0.1,
  clip_norm=1.0,
  layer_decay=1.0,
  num_blocks=2,
  steps=5,
  updates_per_step=3,
)


def manual_updates(params, opt_state, model, spec, step):
  """Gradient and update of one segment after another, outside of a scan."""
  rule = optimizer.build(OPTIMIZER)

  @jax.jit
  def gradient_of_segment(params, progress, part, key):
    setting = setting_lib.prepared(params, model, spec, BATCH, key)
    run = functools.partial(segment.segment_loss, setting=setting)
    return jax.grad(run, has_aux=True)(params, progress, part)

  @jax.jit
  def updated(params, opt_state, grads):
    updates, opt_state = rule.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  step_key = jax.random.fold_in(key_of(), step)
  progress = segment.first_progress(model, BATCH)
  for number in range(model.grid.segments):
    key = jax.random.fold_in(jax.random.clone(step_key), number)
    weight_R = jnp.asarray(spec.weight_SxR[number])
    part = setting_lib.Part(number, number, weight_R, key)
    update_key = jax.random.clone(step_key)
    grads, (progress, _) = gradient_of_segment(
      params, progress, part, update_key
    )
    params, opt_state = updated(params, opt_state, grads)
  return params


@pytest.mark.parametrize('name', ['random', 'hrm'])
def test_updates_per_segment_are_that_many_manual_steps(name):
  model = segmented.BODIES[name]
  params = tiny.params(model)
  spec = spec_of(model, per_segment=True)
  opt_state = optimizer.build(OPTIMIZER).init(params)
  expected = manual_updates(params, opt_state, model, spec, step=4)

  state = update.TrainState(jnp.int32(4), params, opt_state)
  after, metrics = update.train_step(
    jax.tree.map(jnp.array, state),  # it will be given away
    BATCH,
    key_of(),
    model=model,
    loss_spec=spec,
    opt_spec=OPTIMIZER,
    accumulate=1,
  )
  tiny.assert_trees_close(after.params, expected, rtol=1e-4, atol=1e-5)
  assert int(after.step) == 5
  counts = optax.tree.get_all_with_path(after.opt_state, 'count')
  assert {int(count) for _, count in counts} == {3}
  np.testing.assert_allclose(
    metrics['learning_rate'],
    optimizer.learning_rate(OPTIMIZER, 12),
    rtol=1e-6,
  )
