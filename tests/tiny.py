"""Tiny models and batches that several test files share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ease_jax import config, models

VOCAB = 23


def model_config(vocab_size=VOCAB, **changes):
  fields = dict(
      num_layers=4, dim=16, num_heads=4, num_kv_heads=2, mlp_dim=32,
      tie_embeddings=False)  # pyformat: disable
  c = config.base()
  c.model.update(fields | changes)
  return config.model_config(c, vocab_size)


def body(vocab_size=VOCAB, **changes):
  return models.build(model_config(vocab_size, **changes))


stack = body  # the default one


@functools.cache
def params(model, seed=0):
  """Parameters with confident heads, and no norm scale that is just one."""
  tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
  tree = jax.eval_shape(model.init, jax.random.key(0), tokens)['params']
  rng = np.random.default_rng(seed)

  def draw(path, x):
    name = path[-1].key
    if name == 'scale':
      value = rng.normal(1, 0.2, x.shape)
    elif name == 'kernel':
      value = rng.normal(0, x.shape[0] ** -0.5, x.shape)
    else:  # the embeddings
      value = rng.normal(0, 0.5, x.shape)
    return jnp.asarray(value, x.dtype)

  return jax.tree_util.tree_map_with_path(draw, tree)


def batch(rows=3, length=12, vocab_size=VOCAB, seed=0):
  rng = np.random.default_rng(seed)
  window = rng.integers(0, vocab_size, (rows, length + 1)).astype(np.int32)
  return {
      'tokens': window[:, :-1],
      'targets': window[:, 1:],
      'mask': np.ones((rows, length), np.float32),
  }


def assert_trees_equal(a, b):
  """Same structure and the same bits."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_trees_close(a, b, rtol=1e-5, atol=1e-6):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  close = lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)
  jax.tree.map(close, a, b)
