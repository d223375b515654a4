"""Losses and observations that never hold all logits."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from ease_jax.core.distillation import TeachingSpec
from ease_jax.core.objective import LossSpec
from ease_jax.model import chunks, linear_loss, readout, unembedding
from ease_jax.model.linear_loss import linear_cross_entropy
from ease_jax.model.readout import Read
from ease_jax.train import loss as losses

VOCAB = 11


def problem(num, seed=0, dim=8):
  """States, unembedding, targets and weights of `num` tokens."""
  rng = np.random.default_rng(seed)
  h_NxD = rng.normal(size=(num, dim)).astype(np.float32)
  w_VxD = rng.normal(size=(VOCAB, dim)).astype(np.float32)
  target_N = rng.integers(0, VOCAB, num).astype(np.int32)
  weight_N = rng.random(num).astype(np.float32)
  return h_NxD, w_VxD, target_N, weight_N


def naive(h_NxD, w_VxD, target_N, weight_N):
  log_p_NxV = jax.nn.log_softmax(h_NxD @ w_VxD.T)
  return -(weight_N * log_p_NxV[jnp.arange(len(target_N)), target_N]).sum()


def value_and_grads(function, h_NxD, w_VxD, target_N, weight_N):
  """Of three times the loss, so that a cotangent is not just one."""

  def scaled(h_NxD, w_VxD, weight_N):
    return 3.0 * function(h_NxD, w_VxD, target_N, weight_N)

  run = jax.jit(jax.value_and_grad(scaled, (0, 1, 2)))
  return run(h_NxD, w_VxD, weight_N)


# Chunks: all at once, several with a ragged end, one token each.
@pytest.mark.parametrize('elements, num', [(1 << 22, 13), (50, 14), (11, 15)])
def test_fused_loss_and_gradients_equal_the_naive_ones(
  monkeypatch, elements, num
):
  tiny.chunk(monkeypatch, elements)
  args = problem(num)
  fused = value_and_grads(linear_cross_entropy, *args)
  tiny.assert_trees_close(fused, value_and_grads(naive, *args), atol=1e-5)
  # Without a gradient the same value comes from another program.
  value = linear_cross_entropy(*args)
  np.testing.assert_allclose(3 * value, fused[0], rtol=1e-6)


@pytest.mark.parametrize('elements, num', [(1 << 22, 13), (50, 14)])
def test_a_limit_is_in_the_loss_and_its_gradients(monkeypatch, elements, num):
  tiny.chunk(monkeypatch, elements)
  cap = 1.5
  args = problem(num)

  def fused(h_NxD, w_VxD, target_N, weight_N):
    w = unembedding.Capped(jnp.asarray(w_VxD), cap)
    return linear_cross_entropy(h_NxD, w, target_N, weight_N)

  def plain(h_NxD, w_VxD, target_N, weight_N):
    logits_NxV = cap * jnp.tanh(h_NxD @ w_VxD.T / cap)
    log_p_NxV = jax.nn.log_softmax(logits_NxV)
    return -(weight_N * log_p_NxV[jnp.arange(num), target_N]).sum()

  expected = value_and_grads(plain, *args)
  tiny.assert_trees_close(value_and_grads(fused, *args), expected, atol=1e-5)
  without = value_and_grads(linear_cross_entropy, *args)
  assert abs(without[0] - expected[0]) > 0.1


def test_a_limit_is_in_all_that_is_said_of_logits():
  h_NxD, w_VxD, target_N, _ = problem(6)
  w = unembedding.Capped(jnp.asarray(w_VxD), 1.5)
  expected_NxV = 1.5 * np.tanh(h_NxD @ w_VxD.T / 1.5)
  np.testing.assert_allclose(readout.logits(h_NxD, w), expected_NxV, rtol=1e-5)

  ids_Nx3, logits_Nx3 = readout.likeliest(jnp.asarray(h_NxD), w, 3)
  order_NxV = np.argsort(-expected_NxV, axis=1)
  np.testing.assert_array_equal(ids_Nx3, order_NxV[:, :3])
  found_Nx3 = np.take_along_axis(expected_NxV, np.asarray(ids_Nx3), 1)
  np.testing.assert_allclose(logits_Nx3, found_Nx3, rtol=1e-5)

  read = Read(h_NxD[None], h_NxD[None])
  obs = readout.observe(read, None, target_N[None], w)
  log_p_NxV = jax.nn.log_softmax(expected_NxV)
  nll_N = -log_p_NxV[np.arange(6), target_N]
  np.testing.assert_allclose(obs.nll[0], nll_N, rtol=1e-5)


def test_padding_has_exactly_no_influence(monkeypatch):
  tiny.chunk(monkeypatch, 50)
  h_NxD, w_VxD, target_N, weight_N = problem(16)
  padding = [2, 7, 15]
  weight_N[padding] = 0

  def run(h_NxD, target_N):
    loss = linear_cross_entropy
    return value_and_grads(loss, h_NxD, w_VxD, target_N, weight_N)

  value, (dh_NxD, dw_VxD, _) = run(h_NxD, target_N)
  assert (np.asarray(dh_NxD)[padding] == 0).all()
  assert (np.asarray(dh_NxD)[[0, 3, 14]] != 0).all()

  h_NxD = h_NxD.copy()
  h_NxD[padding] = 50.0
  target_N = target_N.copy()
  target_N[padding] = 0
  again, (dh_again_NxD, dw_again_VxD, _) = run(h_NxD, target_N)
  tiny.assert_trees_equal(
    (value, dh_NxD, dw_VxD), (again, dh_again_NxD, dw_again_VxD)
  )


def test_losses_that_share_an_unembedding_owe_it_one_gradient(monkeypatch):
  """The sum of three losses, each times its own scale."""
  tiny.chunk(monkeypatch, 50)
  h_NxD, w_VxD, target_N, weight_N = problem(14)
  scale_R = jnp.array([0.5, 0.0, 2.0])
  h_RxNxD = jnp.stack([h_NxD, h_NxD[::-1], 2 * h_NxD])

  def shared(h_RxNxD, w_VxD):
    owed = linear_loss.nothing_owed(w_VxD)
    total = jnp.float32(0)
    for scale, h_NxD in zip(scale_R, h_RxNxD, strict=True):
      loss, owed = linear_loss.owing_loss(
        linear_loss.CROSS_ENTROPY,
        h_NxD,
        w_VxD,
        target_N,
        weight_N,
        scale,
        owed,
      )
      total += scale * loss
    return 3.0 * (total + linear_loss.paid(w_VxD, owed))

  def apart(h_RxNxD, w_VxD):
    loss_R = [naive(h_NxD, w_VxD, target_N, weight_N) for h_NxD in h_RxNxD]
    return 3.0 * scale_R @ jnp.stack(loss_R)

  found = jax.jit(jax.value_and_grad(shared, (0, 1)))(h_RxNxD, w_VxD)
  expected = jax.value_and_grad(apart, (0, 1))(h_RxNxD, w_VxD)
  tiny.assert_trees_close(found, expected, atol=2e-5)
  assert (np.asarray(found[1][0][1]) == 0).all()  # of scale 0


def test_an_unembedding_learns_where_states_stay():
  h_NxD, w_VxD, target_N, weight_N = problem(13)

  def gradient(loss):
    def of_w(w_VxD):
      return loss(h_NxD, w_VxD, target_N, weight_N)

    return jax.grad(of_w)(w_VxD)

  found = gradient(linear_cross_entropy)
  np.testing.assert_allclose(found, gradient(naive), rtol=1e-4, atol=1e-6)


def test_a_loss_has_the_derivative_that_is_found_for_it():
  def nll(logits_NxV, target_N, shared):
    del shared
    return -jax.nn.log_softmax(logits_NxV)[jnp.arange(13), target_N]

  args = problem(13)
  lesson = linear_loss.Lesson(linear_loss.differentiated(nll))

  def found(h_NxD, w_VxD, target_N, weight_N):
    return linear_loss.linear_loss(lesson, h_NxD, w_VxD, target_N, weight_N)

  expected = value_and_grads(linear_cross_entropy, *args)
  tiny.assert_trees_close(value_and_grads(found, *args), expected, atol=1e-6)


def test_memory_does_not_grow_with_the_readouts(monkeypatch):
  """Beyond their states: one gradient of the unembedding for all of them."""
  vocab_size = 4096
  tiny.chunk(monkeypatch, 8 * vocab_size)  # two for each readout

  def temporary(readouts):
    model = tiny.stack(num_layers=6, readouts=readouts, vocab_size=vocab_size)
    batch = tiny.batch(2, 8, vocab_size=vocab_size)
    spec = LossSpec((1.0,) * len(readouts))
    tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens)['params']

    def loss(params):
      key = jax.random.key(0)
      return losses.grid_loss(params, model, spec, batch, 0, key)[0]

    compiled = jax.jit(jax.grad(loss)).lower(params).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  table = vocab_size * tiny.SMALL['dim'] * 4
  assert temporary((1, 2, 3, 4, 5, 6)) - temporary((5, 6)) < table


@pytest.mark.parametrize(
  'tokens, vocab_size, memory, size',
  [
    (2048, 97, None, 2048),
    (2048, 8192, None, 512),
    (100, 1 << 18, None, 50),  # at most 64, of one size
    (8192, 1 << 17, 60 * 2**30, 1024),  # 32 GiB / 64 / 4 bytes: 8 chunks
    (8192, 1 << 17, 59 * 2**30, 1024),  # the same
  ],
)
def test_the_size_of_a_chunk(tokens, vocab_size, memory, size):
  assert chunks.at_once(tokens, vocab_size, memory) == size


def test_bfloat16_states_give_a_float32_loss():
  h_NxD, w_VxD, target_N, weight_N = problem(13)
  h_NxD = jnp.bfloat16(h_NxD)
  w_VxD = jnp.bfloat16(w_VxD)
  value = linear_cross_entropy(h_NxD, w_VxD, target_N, weight_N)
  assert value.dtype == jnp.float32

  exact = naive(
    h_NxD.astype(jnp.float32), w_VxD.astype(jnp.float32), target_N, weight_N
  )
  np.testing.assert_allclose(value, exact, rtol=1e-5)
  _, (dh_NxD, dw_VxD, _) = value_and_grads(
    linear_cross_entropy, h_NxD, w_VxD, target_N, weight_N
  )
  assert dh_NxD.dtype == dw_VxD.dtype == jnp.bfloat16


# -------------------------------------------------------------- observations


def softmax(logits):
  p = np.exp(logits - logits.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


def norm(x):
  return np.sqrt((x**2).sum(-1))


@pytest.fixture(scope='module', params=['float32', 'bfloat16'])
def observed(request):
  """Observations of [3, 5] tokens in small chunks, and their inputs.

  The inputs are, in float64: state, normed state, both of the readout before,
  the unembedding, and the targets.
  """
  rng = np.random.default_rng(1)
  h, normed, before_h, before_normed = rng.normal(size=(4, 3, 5, 8))
  w_VxD = rng.normal(size=(VOCAB, 8))
  w_VxD[5] = w_VxD[2]  # a tie wherever these two win
  normed[0, 0] = 3 * w_VxD[2]
  target_BxT = rng.integers(0, VOCAB, (3, 5)).astype(np.int32)

  inputs = [
    jnp.asarray(x, request.param)
    for x in (h, normed, before_h, before_normed, w_VxD)
  ]
  with pytest.MonkeyPatch.context() as patch:
    tiny.chunk(patch, 44)
    obs = readout.observe(
      Read(*inputs[:2]), Read(*inputs[2:4]), target_BxT, inputs[4], inputs[4]
    )
  exact = [np.asarray(x, np.float64) for x in inputs]
  return obs, (*exact, target_BxT)


def test_observe_equals_a_naive_computation(observed):
  obs, (h, normed, before_h, before_normed, w_VxD, target_BxT) = observed
  p = softmax(normed @ w_VxD.T)
  before_p = softmax(before_normed @ w_VxD.T)
  ordered = np.sort(p, -1)
  chosen = np.take_along_axis(p, target_BxT[..., None], -1)[..., 0]
  expected = {
    'nll': -np.log(chosen),
    'argmax': p.argmax(-1),
    'max_prob': ordered[..., -1],
    'margin': ordered[..., -1] - ordered[..., -2],
    'entropy': -(p * np.log(p)).sum(-1) / np.log(VOCAB),
    'state_cosine': (h * before_h).sum(-1) / norm(h) / norm(before_h),
    'state_change': norm(h - before_h) / norm(before_h),
    'kl': (before_p * np.log(before_p / p)).sum(-1),
  }
  assert set(expected) == set(obs._fields) - {'gate', 'named'}
  for name, value in expected.items():
    observation = getattr(obs, name)
    chex.assert_shape(observation, (3, 5))
    np.testing.assert_allclose(
      observation, value, rtol=1e-4, atol=2e-5, err_msg=name
    )


def test_what_gates_and_candidates_say_is_added_by_others(observed):
  obs, _ = observed
  assert obs.gate == {}
  assert obs.named == {}


def test_observations_are_float32_whatever_the_states(observed):
  obs, _ = observed
  numbers = obs._replace(gate=obs.nll, named=obs.nll)._asdict()
  for name, value in numbers.items():
    assert value.dtype == (jnp.int32 if name == 'argmax' else jnp.float32)


def test_a_tie_has_no_margin(observed):
  obs, _ = observed
  assert obs.argmax[0, 0] == 2
  assert obs.margin[0, 0] == 0
  assert (np.asarray(obs.margin).reshape(-1)[1:] != 0).any()


def test_the_first_readout_has_nothing_to_compare_with():
  h_NxD, w_VxD, target_N, _ = problem(6)
  read = Read(h_NxD[None], h_NxD[None])
  obs = readout.observe(read, None, target_N[None], w_VxD, w_VxD)
  assert (np.asarray(obs.kl) == np.inf).all()
  assert (np.asarray(obs.state_cosine) == -np.inf).all()
  assert (np.asarray(obs.max_prob) > 0).all()


def test_states_tell_their_cosine_without_a_head():
  h_NxD, w_VxD, target_N, _ = problem(6)
  before_NxD, *_ = problem(6, seed=1)
  read = Read(h_NxD[None], h_NxD[None])
  before = Read(before_NxD[None], before_NxD[None])
  obs = readout.observe_states(read, before)
  expected = readout.observe(read, before, target_N[None], w_VxD)
  np.testing.assert_allclose(obs.state_cosine, expected.state_cosine, 1e-6)
  assert (np.asarray(obs.max_prob) == 0).all()


# ------------------------------------------------------------------- memory


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


TAUGHT = dict(teaching=TeachingSpec('distill'))
LIKELIEST = dict(teaching=TeachingSpec('distill', teacher_top_k=8))


@pytest.mark.parametrize('target', [{}, TAUGHT, LIKELIEST])
def test_deep_supervision_never_holds_all_logits(monkeypatch, target):
  tiny.chunk(monkeypatch, 8192)
  model = tiny.stack(vocab_size=512)
  batch = tiny.batch(8, 12, vocab_size=512)
  all_logits = 8 * 12 * 512
  spec = LossSpec((1.0,) * 4, **target)

  def loss(params):
    return losses.grid_loss(params, model, spec, batch, 0, jax.random.key(0))[0]

  def naive_loss(params):
    return model.apply({'params': params}, batch['tokens']).sum()

  tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
  variables = jax.eval_shape(model.init, jax.random.key(0), tokens)
  params = variables['params']
  assert largest(jax.make_jaxpr(naive_loss)(params).jaxpr) == 4 * all_logits
  gradient = jax.make_jaxpr(jax.grad(loss))(params).jaxpr
  # The parameters' own size; one readout's logits are six times as many.
  assert largest(gradient) <= 8192 < all_logits
