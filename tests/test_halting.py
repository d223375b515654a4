"""q_halt: what its values learn, and whose training they end."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import segmented
from segmented import BATCH, LENGTH, ROWS, key_of, spec_of

import tiny
from ease_jax.core import halting
from ease_jax.core.gating import GateSpec
from ease_jax.core.objective import LossSpec
from ease_jax.model import with_segments
from ease_jax.train import segment
from ease_jax.train import setting as setting_lib

MODEL = segmented.HRM
PARAMS = tiny.params(MODEL)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def test_q_targets_by_hand():
  next_q = jnp.asarray([[0.0, 2.0], [3.0, -1.0]])
  correct = jnp.asarray([True, False])
  np.testing.assert_allclose(
    halting.targets(correct, next_q, jnp.asarray(False)),
    [[1, sigmoid(2.0)], [0, sigmoid(3.0)]],
    rtol=1e-6,
  )
  # After the last segment one would have to stop.
  np.testing.assert_allclose(
    halting.targets(correct, next_q, jnp.asarray(True)),
    [[1, sigmoid(0.0)], [0, sigmoid(3.0)]],
    rtol=1e-6,
  )


def test_targets_are_constants():
  def total(next_q):
    correct = jnp.asarray([True, False])
    return halting.targets(correct, next_q, jnp.asarray(False)).sum()

  grad = jax.grad(total)(jnp.asarray([[0.0, 2.0], [3.0, -1.0]]))
  assert (grad == 0).all()


def test_the_loss_is_the_binary_cross_entropy_of_both_values():
  q = jnp.asarray([[1.0, -2.0]])
  target = jnp.asarray([[1.0, 0.25]])
  first = np.log1p(np.exp(-1.0))
  second = 0.25 * np.log1p(np.exp(2.0)) + 0.75 * np.log1p(np.exp(-2.0))
  np.testing.assert_allclose(
    halting.loss(q, target), [first + second], rtol=1e-6
  )


def test_exploring_tokens_halt_late():
  q = jnp.broadcast_to(jnp.asarray([1.0, 0.0]), (4000, 2))
  rates = [
    float(halting.halts(q, number, key_of(), 0.4, 4).mean())
    for number in (1, 2, 3, 4)
  ]
  # 0.4 of them wait until a segment drawn from 2, 3, 4.
  np.testing.assert_allclose(
    rates, [0.6, 0.6 + 0.4 / 3, 0.6 + 0.8 / 3, 1], atol=0.03
  )
  assert rates[3] == 1
  assert not halting.halts(-q, 4, key_of(), 0.4, 4).any()


@functools.partial(jax.jit, static_argnames='spec')
def run_segment(params, progress, number, seed, batch, *, spec):
  """Loss, progress and losses of one segment."""
  part = setting_lib.Part(number, number, jnp.ones(1), jax.random.key(seed))
  update_key = jax.random.key(9)
  setting = setting_lib.prepared(params, MODEL, spec, batch, update_key)
  loss, (progress, losses) = segment.segment_loss(
    params, progress, part, setting
  )
  return loss, progress, losses


SURE = spec_of(MODEL, gate_exploration=0.0)


def values_of(model, params, state_BxTxD):
  """The gate's values of stopping and of going on, [B, T, 2]."""
  return model.bind({'params': params}).gate('q_halt', 0, state_BxTxD)


def test_a_halted_token_is_not_trained_on_any_more():
  state_BxTxD = segmented.states(PARAMS, BATCH['tokens'], model=MODEL)[0]
  q_BxTx2 = values_of(MODEL, PARAMS, state_BxTxD)
  middle = jnp.median(halting.score(q_BxTx2))
  bias = PARAMS['gate_q_halt']['bias'] - jnp.stack([middle, 0.0])
  gate = PARAMS['gate_q_halt'] | {'bias': bias}
  params = PARAMS | {'gate_q_halt': gate}

  first = segment.first_progress(MODEL, BATCH)
  _, after, _ = run_segment(params, first, 0, 3, BATCH, spec=SURE)

  alive_BxT = np.asarray(after.alive_BxT)
  q_BxTx2 = values_of(MODEL, params, state_BxTxD)
  goes_on_BxT = np.asarray(q_BxTx2[..., 0] <= q_BxTx2[..., 1])
  np.testing.assert_array_equal(alive_BxT, goes_on_BxT)
  assert 0 < alive_BxT.mean() < 1, 'some must halt'

  targets = np.where(alive_BxT > 0, BATCH['targets'], 0)
  changed = BATCH | {'targets': targets}
  assert (targets != BATCH['targets']).any()
  loss, _, _ = run_segment(params, after, 1, 4, BATCH, spec=SURE)
  same, _, _ = run_segment(params, after, 1, 4, changed, spec=SURE)
  assert loss == same


def test_once_halted_is_halted_for_good():
  """Also where going on is worth more later."""
  first = segment.first_progress(MODEL, BATCH)
  nobody = first._replace(alive_BxT=jnp.zeros_like(first.alive_BxT))
  loss, after, _ = run_segment(PARAMS, nobody, 1, 4, BATCH, spec=SURE)
  assert (np.asarray(after.alive_BxT) == 0).all()
  assert loss == 0


@pytest.mark.parametrize('number, is_last', [(0, False), (1, False), (2, True)])
def test_the_loss_of_halting_looks_one_segment_ahead(number, is_last):
  progress = segment.first_progress(MODEL, BATCH)
  for s in range(number):
    _, progress, _ = run_segment(PARAMS, progress, s, s, BATCH, spec=SURE)
    progress = progress._replace(alive_BxT=jnp.ones((ROWS, LENGTH)))
  _, _, losses = run_segment(PARAMS, progress, number, 9, BATCH, spec=SURE)

  four = with_segments(MODEL, 4)
  state_K = segmented.states(PARAMS, BATCH['tokens'], model=four)
  q_BxTx2 = values_of(MODEL, PARAMS, state_K[number])
  next_BxTx2 = values_of(MODEL, PARAMS, state_K[number + 1])
  bound = four.bind({'params': PARAMS})
  logits_BxTxV = bound.normed(0, state_K[number]) @ bound.unembedding().T
  target_BxTx2 = halting.targets(
    logits_BxTxV.argmax(-1) == BATCH['targets'],
    next_BxTx2,
    jnp.asarray(is_last),
  )
  expected = halting.loss(q_BxTx2, target_BxTx2).mean()
  np.testing.assert_allclose(losses.gates['q_halt'], expected, rtol=1e-4)


@pytest.mark.parametrize(
  'normalize, per_segment, weight, scale',
  [
    ('none', False, 1.0, 0.5),
    ('none', True, 1.0, 0.5),
    ('sum_to_one', False, 0.25, 0.125),  # segments share the sum of one
    ('sum_to_one', True, 1.0, 0.5),  # each has its own
  ],
)
def test_halting_is_scaled_like_the_readouts(
  normalize, per_segment, weight, scale
):
  spec = LossSpec(
    (1.0,) * 4,
    normalize=normalize,
    segments=4,
    per_segment=per_segment,
    gating=GateSpec(gates=('q_halt',), gate_weight=0.5),
  )
  np.testing.assert_array_equal(spec.weights_at(0), [weight] * 4)
  assert spec.gate_scale == scale
