"""The optimizer: rates, decay, clipping, and the mean of micro-batches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training

import tiny
from ease_jax import config
from ease_jax.checks import ConfigError
from ease_jax.train import optimizer, update
from ease_jax.train.optimizer import OptimizerSpec


def make_spec(**fields):
  """Plain AdamW of two layers, in which nothing else happens."""
  section = config.base().optimizer
  section.warmup_steps = 2
  section.layer_decay = 1.0
  section.weight_decay = 0.0
  section.clip_norm = 0.0
  section.update(fields)
  return OptimizerSpec.from_config(
    section, num_blocks=2, steps=12, updates_per_step=1
  )


def updates_of(spec, grads, params):
  """The first updates."""
  rule = optimizer.build(spec)
  updates, _ = rule.update(grads, rule.init(params), params)
  return updates


def test_an_unknown_optimizer_is_named():
  with pytest.raises(ConfigError) as caught:
    make_spec(name='sgd')
  assert str(caught.value) == (
    "optimizer.name='sgd' is unknown; use one of: adamw, muon"
  )


def test_the_learning_rate_warms_up_and_decays():
  spec = make_spec(learning_rate=1e-3)
  rates = [float(optimizer.learning_rate(spec, step)) for step in range(12)]
  np.testing.assert_allclose(rates[:2], [5e-4, 1e-3], rtol=1e-6)
  np.testing.assert_allclose(rates[-1], 1e-4, rtol=1e-5)
  assert rates[1:] == sorted(rates[1:], reverse=True)
  assert len(set(rates)) == 12


def test_the_updates_of_a_batch_share_its_place_in_the_schedule():
  joint = make_spec()
  own = dataclasses.replace(joint, updates_per_step=3)
  for step in range(12):
    last_of_step = 3 * step + 2
    np.testing.assert_allclose(
      optimizer.schedule(own, last_of_step), optimizer.schedule(joint, step)
    )


def test_lower_layers_learn_slower():
  spec = make_spec(layer_decay=0.5)
  names = ('embed', 'layer_0', 'layer_1', 'readout_norm', 'unembed')
  params = {name: {'w': jnp.ones((2, 2))} for name in names}
  updates = updates_of(spec, params, params)
  size = {name: float(updates[name]['w'][0, 0]) for name in names}
  ratio = [size[name] / size['unembed'] for name in names]
  assert ratio == pytest.approx([0.25, 0.5, 1.0, 1.0, 1.0])


def test_weight_decay_is_on_matrices_only():
  spec = make_spec(learning_rate=1e-3, weight_decay=0.1)
  params = {'layer_1': {'w': jnp.ones((2, 2)), 'scale': jnp.ones(2)}}
  grads = jax.tree.map(jnp.zeros_like, params)
  updates = updates_of(spec, grads, params)['layer_1']
  assert float(updates['w'][0, 0]) == pytest.approx(-5e-4 * 0.1)
  assert float(updates['scale'][0]) == 0


def test_muon_orthogonalises_layer_matrices_and_leaves_the_rest_to_adamw():
  rng = np.random.default_rng(0)

  def draw(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  layer = {'kernel': draw(6, 8), 'scale': draw(6)}
  grads = {'embed': draw(8, 6), 'layer_0': layer}
  params = jax.tree.map(jnp.ones_like, grads)
  adamw = updates_of(make_spec(), grads, params)
  muon = updates_of(
    make_spec(name='muon', muon_learning_rate=0.5), grads, params
  )

  kernel = muon['layer_0'].pop('kernel')
  del adamw['layer_0']['kernel']
  tiny.assert_trees_close(muon, adamw)

  # Half of the peak, since the first of two warm-up updates has half the rate.
  rate = 0.5 / 2 * (8 / 6) ** 0.5
  singular = np.linalg.svd(kernel, compute_uv=False) / rate
  assert singular.min() > 0.6
  assert singular.max() < 1.3
  before = np.linalg.svd(layer['kernel'], compute_uv=False)
  assert before.min() < 0.6 * 1.3


@pytest.mark.parametrize('clip_norm, same', [(1.0, True), (0.0, False)])
def test_a_clipped_gradient_has_lost_its_length(clip_norm, same):
  # So large an eps makes Adam's update proportional to the gradient.
  spec = make_spec(clip_norm=clip_norm, eps=1e6)
  params = {'embed': jnp.ones((2, 2))}
  short = updates_of(spec, {'embed': jnp.full((2, 2), 10.0)}, params)
  long = updates_of(spec, {'embed': jnp.full((2, 2), 20.0)}, params)
  equal = np.allclose(short['embed'], long['embed'], rtol=1e-4, atol=0)
  assert equal is same


@pytest.mark.parametrize('accumulate, exit_threshold', [(4, 0.0), (2, 0.2)])
def test_accumulation_equals_one_large_batch(accumulate, exit_threshold):
  c = training.make_config()
  c.model.dropout = 0.0
  c.loss.token_fraction = 1.0
  c.loss.exit_threshold = exit_threshold  # in the first rows of the batch
  run_specs = training.make_specs(c)
  batch = tiny.batch(rows=4, length=8)
  # Ragged: micro-batches must count by their tokens.
  batch['mask'][0, 2:] = 0
  batch['mask'][3, 5:] = 0

  def gradient(accumulate):
    mean = functools.partial(
      update.mean_gradient,
      model=run_specs.body,
      loss_spec=run_specs.loss,
      accumulate=accumulate,
    )
    key = jax.random.key(0)
    return jax.jit(mean)(tiny.params(run_specs.body), batch, jnp.int32(0), key)

  tiny.assert_trees_close(
    gradient(1), gradient(accumulate), rtol=1e-6, atol=1e-6
  )
