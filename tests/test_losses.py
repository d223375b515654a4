import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from ease_jax import config, specs
from ease_jax.core.gating import GateSpec
from ease_jax.core.objective import LossSpec
from ease_jax.train import loss as losses
from ease_jax.train.targets import some_tokens

MODEL = tiny.body(
  11,
  num_layers=3,
  dim=8,
  num_heads=2,
  num_kv_heads=1,
  mlp_dim=8,
  readout_norm='per_readout',
)
PARAMS = tiny.params(MODEL)


@functools.partial(jax.jit, static_argnames='spec')
def run(params, batch, step, seed, spec):
  key = jax.random.key(seed)

  def loss(p):
    return losses.grid_loss(p, MODEL, spec, batch, step, key)

  return jax.value_and_grad(loss, has_aux=True)(params)


def value_and_grad(spec, step=0, batch=None, seed=0):
  batch = tiny.batch(1, 6, 11) if batch is None else batch
  return run(PARAMS, batch, step, seed, spec)


ALL_ON = LossSpec((1.0, 1.0, 1.0))


@pytest.fixture(scope='module')
def nll_KxN():
  """Naive loss of every readout and token."""
  batch = tiny.batch(1, 6, 11)
  logits = tiny.logits(PARAMS, batch['tokens'], model=MODEL)
  log_p = np.asarray(jax.nn.log_softmax(logits))
  return -log_p[:, 0, np.arange(6), batch['targets'][0]]


def test_the_loss_is_the_weighted_sum_of_mean_cross_entropies(nll_KxN):
  spec = LossSpec((0.5, 0.25, 2.0))
  (total, metrics), _ = value_and_grad(spec)
  mean_K = nll_KxN.mean(1)
  np.testing.assert_allclose(
    total, mean_K @ np.asarray(spec.weight_K), rtol=1e-5
  )
  for k in range(3):
    np.testing.assert_allclose(metrics[f'loss_{k + 1}'], mean_K[k], rtol=1e-5)
  assert metrics['loss'] == total
  assert metrics['loss_final'] == metrics['loss_3']


def test_padding_is_not_in_the_mean(nll_KxN):
  batch = tiny.batch(1, 6, 11)
  batch['mask'] = np.asarray([[1, 1, 0, 1, 0, 0]], np.float32)
  (total, _), grads = value_and_grad(ALL_ON, batch=batch)
  expected = nll_KxN[:, batch['mask'][0] > 0].mean(1).sum()
  np.testing.assert_allclose(total, expected, rtol=1e-5)
  # Whatever the padding's targets are: the same bits.
  batch['targets'] = np.where(batch['mask'] > 0, batch['targets'], 0)
  again = value_and_grad(ALL_ON, batch=batch)
  tiny.assert_trees_equal((total, grads), (again[0][0], again[1]))


def test_an_all_padding_batch_is_zero_not_nan():
  batch = tiny.batch(1, 6, 11)
  batch['mask'] = np.zeros((1, 6), np.float32)
  (total, _), grads = value_and_grad(ALL_ON, batch=batch)
  assert total == 0
  assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize(
  'schedule, step, weight_K',
  [
    ('rotate', 0, (1, 0, 1)),
    ('rotate', 1, (0, 1, 1)),
    ('gradual', 2, (0, 1, 1)),
    ('switch_off', 2, (0, 1, 1)),
    ('linear_warmup', 3, (0.5, 0.5, 1)),
  ],
)
def test_a_schedule_equals_its_weights(schedule, step, weight_K):
  """Skipped readouts change neither value nor gradient of the others."""
  spec = LossSpec((1.0, 1.0, 1.0), schedule, 6, rotate_every=2)
  (total, metrics), grads = value_and_grad(spec, step)
  (_, every), _ = value_and_grad(ALL_ON)
  expected = sum(w * every[f'loss_{k}'] for k, w in enumerate(weight_K, 1))
  np.testing.assert_allclose(total, expected, rtol=1e-6)
  (_, _), constant = value_and_grad(LossSpec(tuple(map(float, weight_K))))
  tiny.assert_trees_close(grads, constant)
  for k, weight in enumerate(weight_K):
    scale = np.asarray(grads[f'readout_norm_{k}']['scale'])
    assert (scale != 0).all() if weight else (scale == 0).all()
    if weight == 0:
      assert metrics[f'loss_{k + 1}'] == 0  # its head was never run


def test_the_sum_of_the_weights_is_logged():
  (_, metrics), _ = value_and_grad(LossSpec((0.5, 0.25, 2.0)))
  assert metrics['weight_sum'] == 2.75
  spec = LossSpec((0.5, 0.5, 2.0), 'rotate', rotate_every=2)
  (_, metrics), _ = value_and_grad(spec, step=1)
  assert metrics['weight_sum'] == 2.5


@pytest.mark.parametrize('step', [0, 1])
def test_normalised_weights_sum_to_one_at_every_step(step):
  spec = LossSpec(
    (0.5, 0.5, 2.0), 'rotate', rotate_every=2, normalize='sum_to_one'
  )
  weight_K = np.asarray(spec.weights_at(step))
  on = np.asarray([step == 0, step == 1, True])
  np.testing.assert_allclose(
    weight_K, np.where(on, [0.2, 0.2, 0.8], 0), rtol=1e-6
  )
  constant = LossSpec((1.0, 1.0, 2.0), normalize='sum_to_one')
  np.testing.assert_array_equal(constant.weights_at(step), [0.25, 0.25, 0.5])


def test_a_token_fraction_is_a_mean_over_so_many_tokens(nll_KxN):
  spec = LossSpec((1.0, 1.0, 1.0), token_fraction=0.5)
  seen = set()
  for seed in range(3):
    (_, metrics), _ = value_and_grad(spec, seed=seed)
    for k in (0, 1):
      means = [
        nll_KxN[k, list(subset)].mean()
        for subset in itertools.combinations(range(6), 3)
      ]
      distance = np.abs(np.asarray(means) - float(metrics[f'loss_{k + 1}']))
      assert distance.min() < 1e-5
      seen.add(int(distance.argmin()))
    # The last readout always learns from every token.
    np.testing.assert_allclose(metrics['loss_3'], nll_KxN[2].mean(), rtol=1e-5)
  assert len(seen) > 1


def test_some_tokens_are_the_same_ones_in_every_array():
  a = jnp.arange(10)
  first, second = some_tokens(jax.random.key(0), 0.35, (a, a * 2.0))
  assert first.shape == (4,)
  assert len(set(first.tolist())) == 4
  np.testing.assert_array_equal(first * 2.0, second)
  (every,) = some_tokens(jax.random.key(0), 1.0, (a,))
  assert sorted(every.tolist()) == list(range(10))


def test_the_loss_of_a_config():
  c = config.base()
  tiny.update_model(c.model, num_layers=4, readouts=(2, 4))
  c.loss.weights = 'linear'
  c.loss.schedule = 'rotate'
  c.loss.rotate_every = 3
  c.loss.token_fraction = 0.5
  spec = specs.from_config(c).loss
  assert spec == LossSpec(
    (0.5, 1.0),
    'rotate',
    rotate_every=3,
    normalize='sum_to_one',
    token_fraction=0.5,
    gating=GateSpec(
      gate_weight=0.5,
      gate_dim=64,
      gate_exploration=0.1,
      gate_price=0.1,
      gate_entropy=0.05,
    ),
  )
  assert spec.trained_K == [0.5, 1.0]
  assert spec.asked_K == [0.0, 0.0]
  assert LossSpec((0.0, 1.0)).trained_K == [0.0, 1.0]
  assert LossSpec((0.0, 1.0), exit_threshold=0.5).asked_K == [1.0, 0.0]


def exits_in_training(exit_threshold, exit_rows):
  model, batch = tiny.stack(readouts=(1, 2, 4)), tiny.batch(4, 12)
  params = tiny.params(model)
  spec = LossSpec(
    (0.0, 0.0, 1.0), exit_threshold=exit_threshold, exit_rows=exit_rows
  )
  run = jax.jit(losses.grid_loss, static_argnames=('model', 'spec'))
  loss, _ = run(params, model, spec, batch, 0, jax.random.key(0))
  return model, params, batch, float(loss)


def test_training_on_exits_is_the_exit_consistent_evaluation():
  model, params, batch, loss = exits_in_training(0.5, 1.0)
  point = tiny.point('max_prob', 'copy_state', 0.5)
  out = tiny.masked(model, params, point, batch)
  assert len(np.unique(out.exit_BxT)) == 3, 'the exits must be mixed'
  assert loss == pytest.approx(float(out.observation.nll.mean()), rel=1e-5)


def test_a_share_of_the_rows_exits_and_the_others_see_full_depth():
  model, params, batch, half = exits_in_training(0.5, 0.5)
  full, every = (exits_in_training(0.5, share)[-1] for share in (0.0, 1.0))
  assert len({half, full, every}) == 3
  assert full == exits_in_training(0.0, 0.5)[-1]
  nll = []
  for start, threshold in ((0, 0.5), (2, jnp.inf)):
    part = {name: x[start : start + 2] for name, x in batch.items()}
    point = tiny.point('max_prob', 'copy_state', threshold)
    nll.append(tiny.masked(model, params, point, part).observation.nll)
  assert half == pytest.approx(float(np.mean(nll)), rel=1e-5)
