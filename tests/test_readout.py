import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from ease_jax.model import readout
from ease_jax.train import loss as losses


def problem(num, seed=0, vocab_size=11, dim=8):
  rng = np.random.default_rng(seed)
  h, w = rng.normal(size=(num, dim)), rng.normal(size=(vocab_size, dim))
  target = rng.integers(0, vocab_size, num).astype(np.int32)
  weight = rng.random(num).astype(np.float32)
  return h.astype(np.float32), w.astype(np.float32), target, weight


def naive(h_NxD, w_VxD, target_N, weight_N):
  logits_NxV = h_NxD @ w_VxD.T
  log_p_NxV = jax.nn.log_softmax(logits_NxV)
  return -(weight_N * log_p_NxV[jnp.arange(len(target_N)), target_N]).sum()


def value_and_grads(function, h, w, target, weight):
  def scaled(h, w, weight):
    return 3.0 * function(h, w, target, weight)

  return jax.value_and_grad(scaled, (0, 1, 2))(h, w, weight)


# Chunks: all at once, several with a ragged end, one token each.
@pytest.mark.parametrize('elements, num', [(1 << 22, 13), (50, 14), (11, 15)])
def test_fused_loss_and_gradients_equal_the_naive_ones(
  monkeypatch, elements, num
):
  monkeypatch.setattr(readout, 'CHUNK_ELEMENTS', elements)
  args = problem(num)
  fused = value_and_grads(readout.linear_cross_entropy, *args)
  tiny.assert_trees_close(fused, value_and_grads(naive, *args), atol=1e-5)
  # Without a gradient the same value comes from another program.
  value = readout.linear_cross_entropy(*args)
  np.testing.assert_allclose(3 * value, fused[0], rtol=1e-6)


def test_every_token_is_in_one_chunk(monkeypatch):
  monkeypatch.setattr(readout, 'CHUNK_ELEMENTS', 50)
  x = np.arange(1, 14, dtype=np.float32)
  (chunks,) = readout._chunked(jnp.asarray(x), vocab_size=11)
  chex.assert_shape(chunks, (3, 5))
  np.testing.assert_array_equal(chunks.reshape(-1)[:13], x)
  assert (np.asarray(chunks).reshape(-1)[13:] == 0).all()


def test_padding_has_exactly_no_influence(monkeypatch):
  monkeypatch.setattr(readout, 'CHUNK_ELEMENTS', 50)
  h, w, target, weight = problem(16)
  weight[[2, 7, 15]] = 0

  def run(h, target):
    return value_and_grads(readout.linear_cross_entropy, h, w, target, weight)

  value, (dh, dw, _) = run(h, target)
  assert (np.asarray(dh)[[2, 7, 15]] == 0).all()
  assert (np.asarray(dh)[[0, 3, 14]] != 0).all()
  h, target = h.copy(), target.copy()
  h[[2, 7, 15]], target[[2, 7, 15]] = 50.0, 0
  again, (dh_again, dw_again, _) = run(h, target)
  tiny.assert_trees_equal((value, dh, dw), (again, dh_again, dw_again))


def test_bfloat16_states_give_a_float32_loss():
  h, w, target, weight = problem(13)
  h, w = jnp.bfloat16(h), jnp.bfloat16(w)
  value = readout.linear_cross_entropy(h, w, target, weight)
  assert value.dtype == jnp.float32
  exact = naive(h.astype(jnp.float32), w.astype(jnp.float32), target, weight)
  np.testing.assert_allclose(value, exact, rtol=1e-5)
  _, (dh, dw, _) = value_and_grads(
    readout.linear_cross_entropy, h, w, target, weight
  )
  assert dh.dtype == dw.dtype == jnp.bfloat16


def softmax64(logits):
  logits = np.asarray(logits, np.float64)
  p = np.exp(logits - logits.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


@pytest.fixture(scope='module', params=['float32', 'bfloat16'])
def observed(request):
  """Observations of [3, 5] tokens in small chunks, and their inputs."""
  rng = np.random.default_rng(1)

  def cast(x):
    return jnp.asarray(x, request.param)

  h, n, ph, pn = (cast(rng.normal(size=(3, 5, 8))) for _ in range(4))
  w = rng.normal(size=(11, 8))
  w[5] = w[2]  # a tie wherever these two win
  w = cast(w)
  n = n.at[0, 0].set(3 * w[2])
  target = rng.integers(0, 11, (3, 5)).astype(np.int32)
  saved, readout.CHUNK_ELEMENTS = readout.CHUNK_ELEMENTS, 44
  try:
    obs = readout.observe((h, n), (ph, pn), target, w, with_kl=True)
  finally:
    readout.CHUNK_ELEMENTS = saved

  def exact(x):
    return np.asarray(x, np.float64)

  return obs, tuple(map(exact, (h, n, ph, pn, w))), target


def test_observe_equals_a_naive_computation(observed):
  obs, (h, n, ph, pn, w), target = observed
  p, q = softmax64(n @ w.T), softmax64(pn @ w.T)
  top = np.sort(p, -1)
  chosen = np.take_along_axis(p, target[..., None], -1)[..., 0]

  def norm(x):
    return np.sqrt((x**2).sum(-1))

  expected = {
    'nll': -np.log(chosen),
    'argmax': p.argmax(-1),
    'max_prob': top[..., -1],
    'margin': top[..., -1] - top[..., -2],
    'entropy': -(p * np.log(p)).sum(-1) / np.log(11),
    'state_cosine': (h * ph).sum(-1) / norm(h) / norm(ph),
    'kl': (q * np.log(q / p)).sum(-1),
    'halt': np.zeros((3, 5)),  # a body's, not a readout's
  }
  assert set(expected) == set(obs._fields)
  for name, value in expected.items():
    got = getattr(obs, name)
    chex.assert_shape(got, (3, 5))
    np.testing.assert_allclose(got, value, rtol=1e-4, atol=2e-5, err_msg=name)


def test_statistics_are_float32_whatever_the_states(observed):
  obs, *_ = observed
  for name, value in obs._asdict().items():
    assert value.dtype == (jnp.int32 if name == 'argmax' else jnp.float32)


def test_a_tie_has_no_margin(observed):
  obs, *_ = observed
  assert obs.argmax[0, 0] == 2
  assert obs.margin[0, 0] == 0
  assert (np.asarray(obs.margin).reshape(-1)[1:] != 0).any()


def test_the_first_readout_has_nothing_to_compare_with():
  h, w, target, _ = problem(6)
  state = h[None], h[None]
  obs = readout.observe(state, None, target[None], w, with_kl=True)
  assert (np.asarray(obs.kl) == np.inf).all()
  assert (np.asarray(obs.state_cosine) == -np.inf).all()
  assert (np.asarray(obs.max_prob) > 0).all()


def subjaxprs(jaxpr):
  yield jaxpr
  for eqn in jaxpr.eqns:
    for param in jax.tree.leaves(list(eqn.params.values())):
      param = getattr(param, 'jaxpr', param)
      if hasattr(param, 'eqns'):
        yield from subjaxprs(param)


def largest(jaxpr):
  """Elements of the largest array that any equation makes."""
  return max(
    int(np.prod(var.aval.shape))
    for sub in subjaxprs(jaxpr)
    for eqn in sub.eqns
    for var in eqn.outvars
  )


def test_deep_supervision_never_holds_all_logits(monkeypatch):
  monkeypatch.setattr(readout, 'CHUNK_ELEMENTS', 8192)
  model = tiny.stack(vocab_size=512)
  batch = tiny.batch(8, 12, vocab_size=512)
  all_logits = 8 * 12 * 512
  spec = losses.LossSpec((1.0,) * 4)

  def loss(params):
    return losses.grid_loss(params, model, spec, batch, 0, jax.random.key(0))[0]

  def naive_loss(params):
    return model.apply({'params': params}, batch['tokens']).sum()

  tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
  variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
  params = variables['params']
  assert largest(jax.make_jaxpr(naive_loss)(params).jaxpr) == 4 * all_logits
  grad = jax.make_jaxpr(jax.grad(loss))(params).jaxpr
  # The parameters' own size; one readout's logits are six times as many.
  assert largest(grad) <= 8192 < all_logits
