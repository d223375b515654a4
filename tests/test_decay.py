"""A state that decays where it meets the input (Parcae, 2604.12946)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from segmented import BATCH, gradient, key_of, spec_of

import tiny
from ease_jax.train import optimizer
from ease_jax.train.optimizer import OptimizerSpec

VECTORS = ('log_rate', 'step_bias')
DECAYED = tiny.refine(num_layers=1, segments=2, inject='decay')


def streams_of(model):
  """The parameters of a model's streams before the first update."""
  params = model.init(key_of(), BATCH['tokens'])['params']
  return params['streams']


def combined(model, streams, x_BxTxD, z_BxTxD):
  """What the first cell of a segment gets."""
  params = tiny.params(model) | {'streams': streams}
  bound = model.bind({'params': params})
  state = {'x': x_BxTxD, 'z': z_BxTxD}
  return bound.combine(model.grid.segment[0], state, 0)


def rule_spec(name):
  """An optimizer with a rate of 0.1, and a tenth of it as weight decay."""
  return OptimizerSpec(
    name=name,
    learning_rate=0.1,
    muon_learning_rate=0.1,
    warmup_steps=0,
    final_fraction=1.0,
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=0.1,
    clip_norm=0.0,
    layer_decay=1.0,
    num_blocks=1,
    steps=1,
  )


def states():
  return jax.random.normal(key_of(), (2, 3, 4, DECAYED.cfg.dim))


def test_a_state_keeps_the_root_of_a_fifth_at_first():
  """exp(-step A) z + step B x with A = 1, B = 1 and step = ln(5) / 2."""
  x_BxTxD, z_BxTxD = states()
  streams = streams_of(DECAYED)
  assert set(streams) == {*VECTORS, 'inject'}
  dim = DECAYED.cfg.dim
  assert {streams[name].shape for name in VECTORS} == {(dim,)}
  np.testing.assert_array_equal(streams['log_rate'], 0)
  np.testing.assert_array_equal(streams['inject']['kernel'], np.eye(dim))
  got = combined(DECAYED, streams, x_BxTxD, z_BxTxD)
  expected = 0.2**0.5 * z_BxTxD + np.log(5) / 2 * x_BxTxD
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_state_that_does_not_decay_is_added():
  """Bit for bit: A = 0, and a step whose softplus is one."""
  bias = jnp.log(jnp.expm1(1.0))
  near = bias + jnp.arange(-8, 9) * jnp.spacing(bias)
  one = near[jax.nn.softplus(near) == 1][0]
  dim = DECAYED.cfg.dim
  streams = streams_of(DECAYED) | {
    'log_rate': jnp.full(dim, -jnp.inf),
    'step_bias': jnp.full(dim, one),
  }
  x_BxTxD, z_BxTxD = states()
  added = tiny.refine(num_layers=1, segments=2, inject='add')
  np.testing.assert_array_equal(
    combined(DECAYED, streams, x_BxTxD, z_BxTxD),
    combined(added, {}, x_BxTxD, z_BxTxD),
  )
  params = tiny.params(added)
  tokens = BATCH['tokens']
  np.testing.assert_array_equal(
    tiny.logits(params | {'streams': streams}, tokens, model=DECAYED),
    tiny.logits(params, tokens, model=added),
  )


def test_every_number_decays_at_a_rate_that_is_learned():
  model = tiny.refine(
    num_layers=1, segments=2, inject='decay', carry_init='input'
  )
  grads, _ = gradient(tiny.params(model), model, spec_of(model), BATCH)
  streams = grads['streams']
  for name in VECTORS:
    assert (np.asarray(streams[name]) != 0).all(), name
  assert (np.asarray(streams['inject']['kernel']) != 0).all()


@pytest.mark.parametrize('rate', [-40.0, -3.0, 0.0, 3.0, 40.0])
def test_no_rate_makes_a_state_grow(rate):
  """Whatever is learned, a share between 0 and 1 of it is left."""
  streams = streams_of(DECAYED)
  dim = DECAYED.cfg.dim
  ones_BxTxD = jnp.ones((1, 1, dim))
  for bias in (-40.0, 0.0, 40.0):
    moved = streams | {
      'log_rate': jnp.full(dim, rate),
      'step_bias': jnp.full(dim, bias),
    }
    left = combined(DECAYED, moved, 0 * ones_BxTxD, ones_BxTxD)
    assert ((left >= 0) & (left <= 1)).all()


@pytest.mark.parametrize('name', ['adamw', 'muon'])
def test_weights_decay_in_the_matrix_alone(name):
  spec = rule_spec(name)
  params = {'streams': streams_of(DECAYED)}
  rule = optimizer.build(spec)
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates, _ = rule.update(zeros, rule.init(params), params)
  after = optax.apply_updates(params, updates)['streams']
  before = params['streams']
  for vector in VECTORS:
    np.testing.assert_array_equal(after[vector], before[vector])
  kernel = before['inject']['kernel']
  np.testing.assert_allclose(after['inject']['kernel'], 0.99 * kernel, 1e-5)


def test_muon_updates_the_matrix_alone():
  """One Newton-Schulz of D x D more than a model without an injection."""
  spec = rule_spec('muon')
  added = tiny.refine(num_layers=1, segments=2, inject='add')
  more = optimizer.update_flops(spec, tiny.params(DECAYED))
  more -= optimizer.update_flops(spec, tiny.params(added))
  assert more == 5 * 6 * DECAYED.cfg.dim**3
