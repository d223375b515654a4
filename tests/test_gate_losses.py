"""The equations of learned gates, beside plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from ease_jax.core import (
  calm,
  depth_adaptive,
  gain,
  observations,
  ouro,
  signals,
  state_gate,
)
from ease_jax.core.gates import GateShape, GridLesson

ROWS = 3
LENGTH = 12
DEPTH_K = (1, 2, 4)
NUM = len(DEPTH_K)


def sigmoid(x):
  return scipy.special.expit(x)


def lesson_of(seed=0, mask_BxT=None, **settings):
  """Random outputs, losses and answers of three readouts."""
  rng = np.random.default_rng(seed)
  shape = (NUM, ROWS, LENGTH)
  fields = dict(
    gate_oracle='likelihood',
    gate_price=0.1,
    gate_smoothing=0.0,
    gate_objective='expected_loss',
    gate_entropy=0.2,
  )
  return GridLesson(
    output_KxBxTxO=jnp.asarray(rng.normal(size=(*shape, 1)), jnp.float32),
    nll_KxBxT=jnp.asarray(rng.gamma(2.0, 1.0, shape), jnp.float32),
    argmax_KxBxT=jnp.asarray(rng.integers(0, 3, shape), jnp.int32),
    target_BxT=jnp.asarray(rng.integers(0, 3, shape[1:]), jnp.int32),
    kl_KxBxT=jnp.asarray(rng.gamma(1.0, 0.3, shape), jnp.float32),
    mask_BxT=jnp.ones(shape[1:]) if mask_BxT is None else mask_BxT,
    depth_K=DEPTH_K,
    settings=fields | settings,
  )


def naive_distribution(logit_KxBxT):
  """Probability to stop at each readout, written as a loop."""
  left = np.ones(logit_KxBxT.shape[1:])
  stops = []
  for logit_BxT in logit_KxBxT[:-1]:
    stops.append(left * sigmoid(logit_BxT))
    left = left * (1 - sigmoid(logit_BxT))
  return np.stack([*stops, left])


def naive_bce(p, target):
  return -(target * np.log(p) + (1 - target) * np.log(1 - p))


@pytest.mark.parametrize('hidden', [0, 5])
def test_each_readout_has_a_gate_of_its_own(hidden):
  """But the last one, which always answers."""
  rng = np.random.default_rng(0)
  params_K = jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(np.float32),
    state_gate.init(jax.random.key(0), GateShape(4, hidden, NUM)),
  )
  h_TxD = rng.normal(3, 2, (LENGTH, 4)).astype(np.float32)
  x_TxD = h_TxD / np.sqrt((h_TxD**2).mean(-1, keepdims=True))

  assert {len(x_K) for x_K in params_K.values()} == {NUM - 1}
  for k in range(NUM - 1):
    params = {name: x_K[k] for name, x_K in params_K.items()}
    inner_TxW = x_TxD
    if hidden:
      inner_TxW = x_TxD @ params['hidden_kernel'] + params['hidden_bias']
      inner_TxW = np.asarray(jax.nn.gelu(inner_TxW))
    expected_Tx1 = inner_TxW @ params['kernel'] + params['bias']
    for number in (k, jnp.int32(k)):  # segments are counted in the program
      output_Tx1 = state_gate.apply(params_K, h_TxD, number)
      np.testing.assert_allclose(output_Tx1, expected_Tx1, 1e-4, 1e-5)


def test_a_chain_of_decisions_is_a_distribution():
  logit_KxBxT = np.asarray(lesson_of().output_KxBxTxO[..., 0])
  p_KxBxT = np.exp(state_gate.log_exit(jnp.asarray(logit_KxBxT)))
  np.testing.assert_allclose(p_KxBxT.sum(0), 1, rtol=1e-5)
  np.testing.assert_allclose(p_KxBxT, naive_distribution(logit_KxBxT), 1e-5)


def test_calm_learns_whether_the_last_readout_agrees():
  lesson = lesson_of()
  p_KxBxT = sigmoid(np.asarray(lesson.output_KxBxTxO[..., 0]))
  argmax_KxBxT = np.asarray(lesson.argmax_KxBxT)
  losses = [
    naive_bce(p_KxBxT[k], argmax_KxBxT[k] == argmax_KxBxT[-1])
    for k in range(NUM - 1)
  ]
  np.testing.assert_allclose(calm.loss(lesson), np.mean(losses, 0), 1e-5)


@pytest.mark.parametrize('oracle', depth_adaptive.ORACLES)
@pytest.mark.parametrize('smoothing', [0.0, 2.0])
def test_dat_learns_the_readout_of_its_oracle(oracle, smoothing):
  mask_BxT = jnp.ones((ROWS, LENGTH)).at[:, -3:].set(0.0)
  lesson = lesson_of(
    mask_BxT=mask_BxT, gate_oracle=oracle, gate_smoothing=smoothing
  )
  argmax_KxBxT = np.asarray(lesson.argmax_KxBxT)
  merit_KxBxT = {
    'likelihood': -np.asarray(lesson.nll_KxBxT),
    'correctness': 1.0 * (argmax_KxBxT == np.asarray(lesson.target_BxT)),
    'agreement': 1.0 * (argmax_KxBxT == argmax_KxBxT[-1]),
  }[oracle]

  worth_KxBxT = np.zeros_like(merit_KxBxT)
  for t in range(LENGTH):
    for other in range(LENGTH):
      if smoothing:
        near = np.exp(-((t - other) ** 2) / smoothing)
        near = near * np.asarray(mask_BxT)[:, other]
      else:
        near = float(t == other)
      worth_KxBxT[..., t] += near * merit_KxBxT[..., other]
  worth_KxBxT -= 0.1 * np.asarray(DEPTH_K)[:, None, None]

  p_KxBxT = naive_distribution(np.asarray(lesson.output_KxBxTxO[..., 0]))
  best_BxT = worth_KxBxT.argmax(0)
  p_BxT = np.take_along_axis(p_KxBxT, best_BxT[None], 0)[0]
  np.testing.assert_allclose(
    depth_adaptive.loss(lesson), -np.log(p_BxT), rtol=1e-4
  )


def test_a_high_price_teaches_dat_to_stop_at_once():
  worth_KxBxT = depth_adaptive.worth(lesson_of(gate_price=100.0))
  assert (worth_KxBxT.argmax(0) == 0).all()


def test_ouro_expects_a_loss_and_keeps_its_distribution_wide():
  lesson = lesson_of()
  p_KxBxT = naive_distribution(np.asarray(lesson.output_KxBxTxO[..., 0]))
  expected_BxT = (p_KxBxT * np.asarray(lesson.nll_KxBxT)).sum(0)
  entropy_BxT = -(p_KxBxT * np.log(p_KxBxT)).sum(0)
  np.testing.assert_allclose(
    ouro.loss(lesson), expected_BxT - 0.2 * entropy_BxT, rtol=1e-4
  )


def test_ouros_second_stage_goes_on_where_the_last_step_helped():
  lesson = lesson_of(gate_objective='improvement')
  nll_KxBxT = np.asarray(lesson.nll_KxBxT)
  gained_BxT = np.maximum(nll_KxBxT[0] - nll_KxBxT[1], 0)
  goes_on_BxT = sigmoid(50 * (gained_BxT - 0.005))
  stops_BxT = sigmoid(np.asarray(lesson.output_KxBxTxO[1, ..., 0]))
  np.testing.assert_allclose(
    ouro.loss(lesson), naive_bce(1 - stops_BxT, goes_on_BxT), rtol=1e-4
  )


def test_ouro_stops_at_quantiles_of_its_distribution():
  logit_KxN = np.asarray(lesson_of().output_KxBxTxO[:, 0])
  seen = [
    observations.blank((LENGTH,))._replace(gate={'ouro': logit})
    for logit in logit_KxN
  ]
  score_KxN = signals.scores(signals.SIGNALS['ouro'], seen)
  mass_KxN = np.cumsum(naive_distribution(logit_KxN[..., 0]), 0)
  np.testing.assert_allclose(score_KxN[:-1], mass_KxN[:-1], rtol=1e-5)


def test_gain_regresses_the_divergence_from_the_last_readout():
  lesson = lesson_of()
  kl_KxBxT = np.asarray(lesson.kl_KxBxT)
  output_KxBxT = np.asarray(lesson.output_KxBxTxO[..., 0])
  losses = []
  for k, left in enumerate((0.75, 0.5)):
    expected_BxT = left * np.exp(output_KxBxT[k])
    losses.append(expected_BxT - kl_KxBxT[k] * output_KxBxT[k])
  np.testing.assert_allclose(gain.loss(lesson), np.mean(losses, 0), rtol=1e-4)


@pytest.mark.parametrize('left, kl', [(0.75, 0.3), (0.5, 0.02)])
def test_gain_is_lowest_where_it_foresees_the_mean(left, kl):
  """It is a rate per share of depth, the log of it in nats."""

  def loss_at(log_rate):
    k = {0.75: 0, 0.5: 1}[left]
    output = jnp.zeros((NUM, 1, 1, 1)).at[k].set(log_rate)
    kl_Kx1x1 = jnp.zeros((NUM, 1, 1)).at[k].set(kl)
    lesson = lesson_of()._replace(output_KxBxTxO=output, kl_KxBxT=kl_Kx1x1)
    return gain.loss(lesson)[0, 0]

  best = jnp.log(kl / left)
  assert jax.grad(loss_at)(best) == pytest.approx(0, abs=1e-6)
  assert loss_at(best) < min(loss_at(best - 0.5), loss_at(best + 0.5))


# ------------------------------------------------------------ a plan ahead


def plans_of(seed=1):
  """Logits of a plan at the first readout, noise at the others."""
  rng = np.random.default_rng(seed)
  return rng.normal(size=(NUM, ROWS, LENGTH, NUM)).astype(np.float32)


def test_a_plan_learns_the_readout_of_its_oracle():
  logit_KxBxTxK = plans_of()
  lesson = lesson_of()._replace(output_KxBxTxO=jnp.asarray(logit_KxBxTxK))
  p_BxTxK = scipy.special.softmax(logit_KxBxTxK[0], -1)
  cost_K = 0.1 * np.asarray(DEPTH_K)[:, None, None]
  best_BxT = (np.asarray(lesson.nll_KxBxT) + cost_K).argmin(0)
  p_BxT = np.take_along_axis(p_BxTxK, best_BxT[..., None], -1)[..., 0]
  np.testing.assert_allclose(
    depth_adaptive.multinomial_loss(lesson), -np.log(p_BxT), rtol=1e-4
  )


def test_a_plan_is_made_once_and_followed():
  logit_KxNxK = plans_of()[:, 0]
  seen = [
    observations.blank((LENGTH,))._replace(gate={'dat_multinomial': logit})
    for logit in logit_KxNxK
  ]
  signal = signals.SIGNALS['dat_multinomial']
  mass_NxK = np.cumsum(scipy.special.softmax(logit_KxNxK[0], -1), -1)
  np.testing.assert_allclose(
    signals.scores(signal, seen), mass_NxK.T, rtol=1e-5
  )


def test_a_plan_is_paid_for_once():
  """And what is asked later comes to nothing: 2 N D, as in the paper."""
  shape = GateShape(16, 0, NUM)
  gate = signals.SIGNALS['dat_multinomial'].gate
  size = 2 * 16
  assert [gate.flops(shape, k) - size * (k == 0) for k in range(NUM)] == [
    2 * NUM * 16,
    0,
    0,
  ]
  params = gate.init(jax.random.key(0), shape)
  h_TxD = jnp.ones((LENGTH, 16))
  assert gate.apply(params, h_TxD, 0).shape == (LENGTH, NUM)
  np.testing.assert_array_equal(gate.apply(params, h_TxD, 1), 0)
