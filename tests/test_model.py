"""Gradients, independence of tokens, and numerics of the models.

Equations are in test_equations.py, equal bits in test_exact.py.
"""

import functools

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny
from ease_jax.core.objective import LossSpec

FINAL = dict(num_layers=3, readouts=(1, 2, 3))


@pytest.fixture(scope='module')
def model():
  return tiny.stack(**FINAL)


@pytest.fixture(scope='module')
def final_step(model):
  spec = LossSpec((0.0, 0.0, 1.0))
  return tiny.grid_step(
    tiny.params(model), tiny.batch(), model=model, spec=spec
  )


@pytest.fixture(scope='module')
def uniform_step(model):
  return tiny.grid_step(
    tiny.params(model), tiny.batch(), model=model, spec=LossSpec((1.0,) * 3)
  )


def test_a_parameter_of_another_shape_is_named(model):
  params = tiny.params(model)
  scale_D = params['layer_1']['mlp_norm']['scale']
  norm = {'scale': jnp.stack([scale_D] * 2)}
  other = params | {'layer_1': params['layer_1'] | {'mlp_norm': norm}}
  tokens = tiny.batch()['tokens']
  with pytest.raises(flax.errors.ScopeParamShapeError, match='layer_1/mlp_nor'):
    jax.eval_shape(tiny.logits, other, tokens, model=model)


# ------------------------------------------------------------- equivalence


def test_all_weight_on_the_last_readout_is_a_hand_written_loss(
  model, final_step
):
  batch = tiny.batch()

  @jax.jit
  @jax.value_and_grad
  def hand_written(params):
    out = model.apply({'params': params}, batch['tokens'])[-1]
    return optax.softmax_cross_entropy_with_integer_labels(
      out, batch['targets']
    ).mean()

  value, grads = hand_written(tiny.params(model))
  np.testing.assert_allclose(final_step[0], value, rtol=1e-6)
  tiny.assert_trees_close(final_step[1], grads, rtol=1e-4, atol=1e-6)


def test_repeated_kv_heads_turn_grouped_into_full_attention(model):
  grouped = model
  full = tiny.stack(**FINAL, num_kv_heads=4)
  params = tiny.params(grouped)

  def repeated(path, x):
    is_kv = len(path) > 1 and path[-2].key in ('key', 'value')
    if not is_kv:
      return x
    return x.reshape(16, 2, 4).repeat(2, axis=1).reshape(16, 16)

  wide = jax.tree_util.tree_map_with_path(repeated, params)
  tokens = tiny.batch()['tokens']
  np.testing.assert_allclose(
    tiny.logits(params, tokens, model=grouped),
    tiny.logits(wide, tokens, model=full),
    rtol=1e-5,
    atol=1e-5,
  )


# --------------------------------------------------------------- gradients


def test_every_parameter_learns(uniform_step):
  _, grads, after = uniform_step
  params = tiny.params(tiny.stack(**FINAL))
  for (path, grad), old, new in zip(
    jax.tree_util.tree_leaves_with_path(grads),
    jax.tree.leaves(params),
    jax.tree.leaves(after),
  ):
    assert np.isfinite(grad).all(), path
    assert (np.asarray(grad) != 0).any(), path
    assert (np.asarray(old) != np.asarray(new)).any(), path


def test_every_parameter_of_the_other_variants_learns():
  model = tiny.stack(
    num_layers=2, readout_norm='per_readout', mlp='swiglu', tie_embeddings=True
  )
  params = tiny.params(model)
  assert 'unembed' not in params
  assert 'gate' in params['layer_0']['mlp']
  _, grads, _ = tiny.grid_step(
    params, tiny.batch(), model=model, spec=LossSpec((1.0, 1.0))
  )
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    assert (np.asarray(grad) != 0).any(), path
  # An unweighted readout's own norm is the one thing that must not learn.
  _, grads, _ = tiny.grid_step(
    params, tiny.batch(), model=model, spec=LossSpec((0.0, 1.0))
  )
  for path, grad in jax.tree_util.tree_leaves_with_path(grads):
    frozen = path[0].key == 'readout_norm_0'
    assert (np.asarray(grad) == 0).all() == frozen, path


# ------------------------------------------------------------- independence


def test_no_gradient_flows_from_a_later_token(model):
  length = 8
  tokens = jnp.arange(length)[None] + 3  # each token has its own embedding
  params = tiny.params(model)

  def outputs(embed):
    tree = {'params': params | {'embed': embed}}
    return (model.apply(tree, tokens)[:, 0] ** 2).sum(-1)

  jacobian = jax.jit(jax.jacrev(outputs))(params['embed'])
  flow_KxTxT = np.abs(jacobian[:, :, tokens[0]]).sum(-1)
  later = np.triu(np.ones((length, length), bool), 1)
  assert (flow_KxTxT[:, later] == 0).all()
  assert (flow_KxTxT[:, ~later] > 0).all()


def test_changing_a_token_leaves_earlier_logits_alone(model):
  params = tiny.params(model)
  tokens = tiny.batch()['tokens']
  before = tiny.logits(params, tokens, model=model)
  changed = tokens.copy()
  changed[:, 5] = (changed[:, 5] + 1) % tiny.VOCAB
  after = tiny.logits(params, changed, model=model)
  np.testing.assert_array_equal(before[:, :, :5], after[:, :, :5])
  moved = np.abs(before - after).max(-1)
  assert (moved[:, :, 5:] > 0).all()


def test_a_row_does_not_know_the_other_rows(model):
  params = tiny.params(model)
  tokens = tiny.batch()['tokens']
  before = tiny.logits(params, tokens, model=model)
  changed = tiny.batch(seed=1)['tokens']
  changed[1] = tokens[1]
  after = tiny.logits(params, changed, model=model)
  np.testing.assert_array_equal(before[:, 1], after[:, 1])
  assert (before[:, 0] != after[:, 0]).any()


# ------------------------------------------------------ dropout and numerics


def test_dropout_is_a_function_of_its_key(final_step):
  model = tiny.stack(**FINAL, dropout=0.3)
  params = tiny.params(model)
  batch = tiny.batch()
  spec = LossSpec((0.0, 0.0, 1.0))
  step = functools.partial(
    tiny.grid_step, params, batch, model=model, spec=spec
  )
  first = step(0)
  tiny.assert_trees_equal(first, step(0))
  assert first[0] != step(1)[0]
  assert first[0] != final_step[0]
  # Without a key, evaluation sees the model itself.
  np.testing.assert_allclose(
    tiny.logits(params, batch['tokens'], model=model),
    tiny.logits(params, batch['tokens'], model=tiny.stack(**FINAL)),
    rtol=1e-6,
  )


def test_bfloat16_computes_on_float32_parameters(uniform_step):
  model = tiny.stack(**FINAL, dtype='bfloat16')
  params = tiny.params(model)
  batch = tiny.batch()
  value, grads, after = tiny.grid_step(
    params, batch, model=model, spec=LossSpec((1.0,) * 3)
  )
  for x in jax.tree.leaves((params, value, grads, after)):
    assert x.dtype == jnp.float32
    assert np.isfinite(x).all()
  np.testing.assert_allclose(value, uniform_step[0], rtol=0.02)
  assert value != uniform_step[0]

  def states(params):
    return model.apply({'params': params}, batch['tokens'], method='states')

  state_K = jax.eval_shape(states, params)
  assert {state.dtype for state in state_K} == {jnp.dtype(jnp.bfloat16)}
  shapes = jax.eval_shape(tiny.logits, params, batch['tokens'], model=model)
  assert shapes.dtype == jnp.float32
