"""Learned gates: what they learn, from whom, and what they leave alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import segmented

import tiny
from ease_jax.core import (
  calm,
  depth_adaptive,
  gain,
  observations,
  ouro,
  signals,
  state_gate,
)
from ease_jax.core.gates import GridLesson
from ease_jax.core.objective import LossSpec

GATES = ('calm', 'dat', 'gain', 'ouro')
MODELS = {
  'stack': tiny.stack(readouts=(1, 2, 4), gates=GATES, gate_dim=8),
  'refine': tiny.refine(gates=GATES),
}
BATCH = segmented.BATCH
ROWS, LENGTH = BATCH['mask'].shape
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


# ---------------------------------------------------------------- equations


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
  observations = [
    observations.blank((LENGTH,))._replace(gate={'ouro': logit})
    for logit in logit_KxN
  ]
  score_KxN = signals.scores(signals.SIGNALS['ouro'], observations)
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


def test_divergences_are_from_the_last_readout():
  model = MODELS['refine']
  params = tiny.params(model)
  bound = model.bind({'params': params})
  state_K = segmented.states(params, BATCH['tokens'], model=model)
  log_p_K = [
    jax.nn.log_softmax(bound.normed(k, h) @ bound.unembedding().T)
    for k, h in enumerate(state_K)
  ]
  kl_KxBxT = jnp.stack(
    [
      (jnp.exp(log_p_K[-1]) * (log_p_K[-1] - log_p)).sum(-1)
      for log_p in log_p_K
    ]
  )
  lesson = lesson_of()._replace(
    output_KxBxTxO=jnp.stack([bound.gate('gain', h) for h in state_K]),
    kl_KxBxT=kl_KxBxT,
    depth_K=model.grid.depth_K,
  )
  _, metrics = gradient_of('refine')
  np.testing.assert_allclose(
    metrics['loss_gain'], gain.loss(lesson).mean(), rtol=1e-4
  )


# ------------------------------------------------------------------ training


def spec_of(name, **changes):
  fields = dict(gate_weight=0.5, gate_price=0.1, gate_exploration=0.0)
  return segmented.spec_of(MODELS[name], **(fields | changes))


@functools.cache
def gradient_of(name, **changes):
  model = MODELS[name]
  return segmented.gradient(
    tiny.params(model), model, spec_of(name, **changes), BATCH
  )


def is_gate(group):
  return group.startswith('gate_')


@pytest.mark.parametrize('name', MODELS)
def test_every_parameter_of_every_gate_learns(name):
  """R3."""
  grads, metrics = gradient_of(name)
  for gate in GATES:
    assert np.isfinite(metrics[f'loss_{gate}'])
    for value in jax.tree.leaves(grads[f'gate_{gate}']):
      assert (np.asarray(value) != 0).all()


@pytest.mark.parametrize('name', MODELS)
def test_detached_gates_leave_the_model_alone(name):
  model = MODELS[name]
  without = segmented.spec_of(model, gates=(), gate_weight=0.0)
  grads, _ = segmented.gradient(tiny.params(model), model, without, BATCH)
  attached, _ = gradient_of(name)
  detached, _ = gradient_of(name, gate_gradient=False)

  for group, value in grads.items():
    if is_gate(group):
      continue
    tiny.assert_trees_close(detached[group], value, rtol=1e-4, atol=1e-6)
  joined = jax.tree.leaves(attached['layer_0'])
  apart = jax.tree.leaves(detached['layer_0'])
  assert any((np.asarray(a) != b).any() for a, b in zip(joined, apart))


@pytest.mark.parametrize('name', MODELS)
def test_a_frozen_model_gets_no_gradient(name):
  grads, metrics = gradient_of(name, frozen=True)
  learned, expected = gradient_of(name, gate_gradient=False)
  for group, value in grads.items():
    if is_gate(group):
      tiny.assert_trees_close(value, learned[group], rtol=1e-4, atol=1e-6)
    else:
      assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(value))
  np.testing.assert_allclose(metrics['loss'], expected['loss'], rtol=1e-5)


def test_padding_and_rows_that_exit_teach_nothing():
  model = MODELS['stack']
  spec = spec_of('stack', exit_threshold=0.5, exit_rows=0.34)
  mask = BATCH['mask'].copy()
  mask[1:, -2:] = 0
  targets = BATCH['targets'].copy()
  targets[0] = (targets[0] + 1) % tiny.VOCAB  # the row that exits
  targets[1:, -2:] = 0
  changed = BATCH | {'targets': targets, 'mask': mask}

  _, here = segmented.gradient(
    tiny.params(model), model, spec, BATCH | {'mask': mask}
  )
  _, there = segmented.gradient(tiny.params(model), model, spec, changed)
  for gate in GATES:
    assert here[f'loss_{gate}'] == there[f'loss_{gate}']
  assert here['loss_final'] != there['loss_final']


def test_segments_and_layers_are_one_grid_to_a_gate():
  """The loss over three segments is that of the three readouts at once."""
  model = MODELS['refine']
  params = tiny.params(model)
  bound = model.bind({'params': params})
  spec = spec_of('refine')
  _, metrics = gradient_of('refine')

  state_K = segmented.states(params, BATCH['tokens'], model=model)
  observations = [
    bound.observe(bound.read(k, h), None, BATCH['targets'])
    for k, h in enumerate(state_K)
  ]
  lesson = lesson_of()._replace(
    output_KxBxTxO=jnp.stack([bound.gate('dat', h) for h in state_K]),
    nll_KxBxT=jnp.stack([obs.nll for obs in observations]),
    argmax_KxBxT=jnp.stack([obs.argmax for obs in observations]),
    target_BxT=BATCH['targets'],
    depth_K=model.grid.depth_K,
    settings={
      'gate_oracle': spec.gate_oracle,
      'gate_price': spec.gate_price,
      'gate_smoothing': 0.0,
    },
  )
  np.testing.assert_allclose(
    metrics['loss_dat'], depth_adaptive.loss(lesson).mean(), rtol=1e-4
  )


def test_the_weight_of_gates_is_part_of_the_loss():
  _, metrics = gradient_of('stack')
  spec = spec_of('stack')
  own = sum(float(metrics[f'loss_{gate}']) for gate in GATES)
  readouts = sum(
    weight * float(metrics[f'loss_{k}'])
    for k, weight in enumerate(spec.weight_K, 1)
  )
  np.testing.assert_allclose(metrics['loss'], readouts + 0.5 * own, rtol=1e-5)


# -------------------------------------------------------------------- errors


@pytest.mark.parametrize(
  'changes, words',
  [
    (dict(weight_K=(1.0,)), 'the model has one readout'),
    (
      dict(weight_K=(1.0, 1.0), segments=2, per_segment=True),
      'train.updates=per_segment makes an update of each',
    ),
    (
      dict(weight_K=(1.0, 1.0), exit_threshold=0.5, exit_rows=1.0),
      'loss.exit_rows=1.0 leaves none',
    ),
  ],
)
def test_gates_that_cannot_learn_are_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    LossSpec(gates=('calm',), gate_weight=0.5, **changes)
