"""A teacher's distribution as a target (R32), and how far one is from it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from ease_jax.core.distillation import DIVERGENCES, TeachingSpec
from ease_jax.core.objective import LossSpec
from ease_jax.model import readout
from ease_jax.model.linear_loss import linear_loss
from ease_jax.train import loss as losses
from ease_jax.train.targets import Distill, Teacher

VOCAB = 11
NUM = 14
RNG = np.random.default_rng(0)
H_NxD = RNG.normal(size=(NUM, 8)).astype(np.float32)
W_VxD = RNG.normal(size=(VOCAB, 8)).astype(np.float32)
LABEL_N = RNG.integers(0, VOCAB, NUM).astype(np.int32)
WEIGHT_N = RNG.random(NUM).astype(np.float32)
TEACHER_NxD = RNG.normal(size=(NUM, 8)).astype(np.float32)


def loss_of(weight=0.7, **fields):
  """Of two readouts, the last of which teaches."""
  fields = {f'teacher_{name}': value for name, value in fields.items()}
  teaching = TeachingSpec('distill', teacher_weight=weight, **fields)
  return LossSpec((1.0, 1.0), teaching=teaching)


def value_and_grads(loss, h_NxD=H_NxD, teacher_NxD=TEACHER_NxD, w=WEIGHT_N):
  """Of three times the loss, so that a cotangent is not just one."""

  def scaled(h_NxD, w_VxD, weight_N, teacher_NxD):
    return 3.0 * loss(h_NxD, w_VxD, weight_N, teacher_NxD)

  run = jax.jit(jax.value_and_grad(scaled, (0, 1, 2, 3)))
  return run(h_NxD, W_VxD, w, teacher_NxD)


def fused(spec, h_NxD, w_VxD, weight_N, teacher_NxD):
  said = teacher_NxD
  if spec.teaching.teacher_top_k:
    said = readout.likeliest(said, w_VxD, spec.teaching.teacher_top_k)
  ready_N = LABEL_N, said
  lesson = Distill(spec).lesson(w_VxD, False)
  return linear_loss(lesson, h_NxD, w_VxD, ready_N, weight_N)


def softened(logits_NxV, temperature, keep_NxV):
  weight_NxV = keep_NxV * jnp.exp(logits_NxV / temperature)
  return weight_NxV / weight_NxV.sum(-1, keepdims=True)


def kl(p_NxV, q_NxV):
  ratio_NxV = jnp.where(p_NxV > 0, p_NxV, 1) / jnp.where(p_NxV > 0, q_NxV, 1)
  return (p_NxV * jnp.log(ratio_NxV)).sum(-1)


NAIVE = {
  'forward_kl': kl,
  'reverse_kl': lambda p, q: kl(q, p),
  'jensen_shannon': lambda p, q: (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2,
}


def naive(spec, h_NxD, w_VxD, weight_N, teacher_NxD):
  """The same by its definition, with all logits of both sides."""
  teaching = spec.teaching
  logits_NxV = h_NxD @ w_VxD.T
  teacher_NxV = jax.lax.stop_gradient(teacher_NxD @ w_VxD.T)
  nll_N = -jax.nn.log_softmax(logits_NxV)[jnp.arange(NUM), LABEL_N]
  top_k = teaching.teacher_top_k or VOCAB
  least_Nx1 = jnp.sort(teacher_NxV)[:, -top_k][:, None]
  keep_NxV = teacher_NxV >= least_Nx1
  temperature = teaching.teacher_temperature
  p_NxV = softened(teacher_NxV, temperature, keep_NxV)
  q_NxV = softened(logits_NxV, temperature, keep_NxV)
  far_N = temperature**2 * NAIVE[teaching.teacher_divergence](p_NxV, q_NxV)
  weight = teaching.teacher_weight
  return weight_N @ ((1 - weight) * nll_N + weight * far_N)


def test_each_divergence_is_tested():
  assert set(NAIVE) == set(DIVERGENCES)


# Chunks: all at once, several with a ragged end, one token each.
@pytest.mark.parametrize(
  'divergence, temperature, top_k, elements',
  [
    ('forward_kl', 1.0, 0, 1 << 22),
    ('forward_kl', 2.5, 4, VOCAB),
    ('reverse_kl', 2.5, 0, 50),
    ('reverse_kl', 0.7, 4, 50),
    ('jensen_shannon', 2.5, 0, VOCAB),
    ('jensen_shannon', 0.7, 4, 1 << 22),
  ],
)
def test_the_fused_loss_is_the_naive_one(
  monkeypatch, divergence, temperature, top_k, elements
):
  tiny.chunk(monkeypatch, elements)
  spec = loss_of(divergence=divergence, temperature=temperature, top_k=top_k)
  found = value_and_grads(functools.partial(fused, spec))
  expected = value_and_grads(functools.partial(naive, spec))
  tiny.assert_trees_close(found, expected, atol=2e-5)
  # Without a gradient the same value comes from another program.
  value = fused(spec, H_NxD, W_VxD, WEIGHT_N, TEACHER_NxD)
  np.testing.assert_allclose(3 * value, found[0], rtol=1e-6)


@pytest.mark.parametrize('divergence', NAIVE)
@pytest.mark.parametrize('temperature, top_k', [(1.0, 0), (3.0, 4)])
def test_who_equals_the_teacher_has_nothing_to_learn(
  divergence, temperature, top_k
):
  """R32: exactly 0, value and gradient."""
  compare = TeachingSpec(
    teacher_divergence=divergence, teacher_temperature=temperature
  )

  def far(student_NxV, teacher_NxV):
    return compare.distance(teacher_NxV, student_NxV)

  logits_NxV = 20 * H_NxD @ W_VxD.T
  for zeros in jax.jit(far)(logits_NxV, logits_NxV):
    assert (np.asarray(zeros) == 0).all()
  for others in jax.jit(far)(logits_NxV[::-1], logits_NxV):
    assert (np.asarray(others) != 0).any()

  spec = loss_of(divergence=divergence, temperature=temperature, top_k=top_k)
  label = value_and_grads(functools.partial(fused, loss_of(0.0)))
  found = value_and_grads(functools.partial(fused, spec), teacher_NxD=H_NxD)
  share = 1 - np.float32(spec.teaching.teacher_weight)
  tiny.assert_trees_close(
    found, jax.tree.map(lambda x: share * x, label), rtol=1e-6
  )


@pytest.mark.parametrize('divergence', NAIVE)
def test_distant_distributions_stay_finite(divergence):
  sure_NxV = 200 * jnp.eye(VOCAB)[LABEL_N]
  spec = TeachingSpec(teacher_divergence=divergence)
  far_N, slope_NxV = spec.distance(sure_NxV, -sure_NxV)
  assert np.isfinite(far_N).all() and np.isfinite(slope_NxV).all()
  assert (np.asarray(far_N) > 0).all()
  if divergence == 'jensen_shannon':
    np.testing.assert_allclose(far_N, np.log(2), rtol=1e-5)


@pytest.mark.parametrize('top_k', [0, 4])
def test_padding_has_exactly_no_influence(monkeypatch, top_k):
  tiny.chunk(monkeypatch, 50)
  padding = [2, 7, 13]
  w = WEIGHT_N.copy()
  w[padding] = 0
  run = functools.partial(
    value_and_grads, functools.partial(fused, loss_of(top_k=top_k)), w=w
  )
  value, (dh_NxD, dw_VxD, _, dteacher_NxD) = run()
  assert (np.asarray(dh_NxD)[padding] == 0).all()
  assert (np.asarray(dh_NxD)[[0, 3, 12]] != 0).all()
  assert (np.asarray(dteacher_NxD) == 0).all()

  changed = H_NxD.copy()
  teacher = TEACHER_NxD.copy()
  changed[padding] = 50.0
  teacher[padding] = -50.0
  again, (dh_again_NxD, dw_again_VxD, *_) = run(changed, teacher)
  tiny.assert_trees_equal(
    (value, dh_NxD, dw_VxD), (again, dh_again_NxD, dw_again_VxD)
  )


# ------------------------------------------------------------- whole models


STACK = tiny.body(
  VOCAB,
  num_layers=3,
  dim=8,
  num_heads=2,
  num_kv_heads=1,
  mlp_dim=8,
  readout_norm='per_readout',
)
TWICE = tiny.refine(
  vocab_size=VOCAB, dim=8, mlp_dim=8, segments=2, carry_backprop=2
)
OTHER = tiny.body(VOCAB, num_layers=1, dim=16)
TEACHER = Teacher(OTHER, tiny.params(OTHER))
BATCH = tiny.batch(2, 6, VOCAB)
BATCH['mask'][0, 4:] = 0
BATCH = jax.tree.map(jnp.asarray, BATCH)


@functools.partial(jax.jit, static_argnames=('model', 'spec'))
def run_model(params, teacher, model, spec):
  def loss(params, teacher):
    key = jax.random.key(0)
    return losses.grid_loss(params, model, spec, BATCH, 0, key, teacher)

  return jax.value_and_grad(loss, (0, 1), has_aux=True)(params, teacher)


def spec_for(model, **changes):
  num = model.grid.num_readouts
  teaching = TeachingSpec(
    'distill', teacher_weight=0.6, teacher_temperature=2.0
  )
  fields = dict(
    weight_K=(1.0,) * num,
    segments=model.grid.segments,
    carry_backprop=model.cfg.carry_backprop,
    teaching=teaching,
  )
  return LossSpec(**(fields | changes))


def naive_model(params, model, teacher):
  """The loss of all readouts by its definition, and its gradient."""
  tokens = BATCH['tokens']
  mask_BxT = BATCH['mask']
  if teacher is not None:
    teacher = tiny.logits(teacher.params, tokens, model=teacher.model)

  def loss(params):
    logits_KxBxTxV = model.apply({'params': params}, tokens)
    own_BxTxV = jax.lax.stop_gradient(logits_KxBxTxV[-1])
    p = jax.nn.softmax((own_BxTxV if teacher is None else teacher[-1]) / 2)
    total = 0.0
    for k, logits_BxTxV in enumerate(logits_KxBxTxV):
      log_q = jax.nn.log_softmax(logits_BxTxV)
      label_BxTx1 = BATCH['targets'][..., None]
      nll_BxT = -jnp.take_along_axis(log_q, label_BxTx1, -1)[..., 0]
      far_BxT = kl(p, jax.nn.softmax(logits_BxTxV / 2))
      mixed_BxT = 0.4 * nll_BxT + 0.6 * 4 * far_BxT
      if teacher is None and k == len(logits_KxBxTxV) - 1:
        mixed_BxT = nll_BxT
      total += (mask_BxT * mixed_BxT).sum() / mask_BxT.sum()
    return total

  return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize('teacher', [None, TEACHER], ids=['own', 'other'])
@pytest.mark.parametrize('model', [STACK, TWICE], ids=['one', 'two'])
def test_readouts_learn_what_the_definition_says(model, teacher):
  """R32: T^2, and no gradient to the teacher, in one and more segments."""
  params = tiny.params(model)
  field = '' if teacher is None else 'runs/big'
  teaching = TeachingSpec(
    'distill', field, teacher_weight=0.6, teacher_temperature=2.0
  )
  spec = spec_for(model, teaching=teaching)
  (total, metrics), (grads, to_teacher) = run_model(
    params, teacher, model, spec
  )
  value, expected = naive_model(params, model, teacher)
  np.testing.assert_allclose(total, value, rtol=1e-5)
  tiny.assert_trees_close(grads, expected, rtol=1e-4, atol=1e-5)
  assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(to_teacher))
  np.testing.assert_allclose(metrics['loss'], total, rtol=1e-6)


def test_segments_one_by_one_are_taught_alike():
  """As each is differentiated alone, and through the scan over all."""
  params = tiny.params(TWICE)
  teaching = TeachingSpec('distill', 'runs/big')
  spec = spec_for(TWICE, teaching=teaching, carry_backprop=1)
  _, (expected, _) = run_model(params, TEACHER, TWICE, spec)

  @jax.jit
  def one_by_one(params, teacher):
    key = jax.random.key(0)
    return losses.grid_gradient(params, TWICE, spec, BATCH, 0, key, teacher)

  grads, _ = one_by_one(params, TEACHER)
  tiny.assert_trees_close(grads, expected, rtol=1e-4, atol=1e-5)


def label_like(spec):
  return LossSpec(
    spec.weight_K,
    segments=spec.segments,
    carry_backprop=spec.carry_backprop,
    schedule=spec.schedule,
    schedule_steps=spec.schedule_steps,
  )


@pytest.mark.parametrize('model', [STACK, TWICE], ids=['one', 'two'])
def test_the_readout_that_teaches_learns_the_label(model):
  """R32: its own gradient and loss are those of the label, bit for bit."""
  params = tiny.params(model)
  spec = spec_for(model)
  (_, metrics), (grads, _) = run_model(params, None, model, spec)
  (_, plain), (expected, _) = run_model(params, None, model, label_like(spec))
  assert metrics['loss_final'] == plain['loss_final']
  assert metrics['loss_1'] != plain['loss_1']
  if model is STACK:
    tiny.assert_trees_equal(grads['readout_norm_2'], expected['readout_norm_2'])


@pytest.mark.parametrize('model', [STACK, TWICE], ids=['one', 'two'])
def test_a_teacher_without_weight_changes_no_bit(model):
  params = tiny.params(model)
  spec = spec_for(model, teaching=TeachingSpec('distill', teacher_weight=0.0))
  found = run_model(params, None, model, spec)
  tiny.assert_trees_equal(
    found, run_model(params, None, model, label_like(spec))
  )


def test_a_schedule_and_a_share_of_the_tokens_go_with_it():
  params = tiny.params(STACK)
  spec = spec_for(STACK, schedule='switch_off', schedule_steps=1)
  off = spec_for(STACK, token_fraction=0.5)
  (_, scheduled), _ = run_model(params, None, STACK, spec)
  (_, sampled), _ = run_model(params, None, STACK, off)
  (_, every), _ = run_model(params, None, STACK, spec_for(STACK))
  assert scheduled['loss_final'] == sampled['loss_final'] == every['loss_final']
  assert sampled['loss_1'] != every['loss_1']


# ------------------------------------------------------------------ its price


def test_heads_that_teach_are_counted():
  spec = spec_for(STACK, token_fraction=0.5)
  assert spec.taught_K == [0.5, 0.5, 0.0]
  assert spec.asked_K == [0.0, 0.0, 1.0]
  likeliest = spec_for(STACK, teaching=TeachingSpec('distill', teacher_top_k=4))
  assert likeliest.asked_K == [0.0, 0.0, 1.0]
  assert spec_for(STACK).asked_K == [0.0, 0.0, 2.0]
  off = spec_for(STACK, teaching=TeachingSpec('distill', teacher_weight=0.0))
  assert off.asked_K == [0.0, 0.0, 0.0]
  other = spec_for(STACK, teaching=TeachingSpec('distill', 'runs/big'))
  assert other.taught_K == [1.0, 1.0, 1.0]
  assert other.asked_K == [0.0] * 3
  assert other.teaching.heads(other.taught_K) == 3.0
  assert label_like(spec).taught_K == [0.0] * 3
