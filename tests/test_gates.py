"""Learned gates: from whom they learn, and what they leave alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import segmented
from test_gate_losses import lesson_of

import tiny
from ease_jax.core import depth_adaptive, gain, state_gate
from ease_jax.core.freeze import MODEL
from ease_jax.core.gating import GateSpec
from ease_jax.core.objective import LossSpec

GATES = ('calm', 'dat', 'dat_multinomial', 'gain', 'ouro')
MODELS = {
  'stack': tiny.stack(readouts=(1, 2, 4), gates=GATES, gate_dim=8),
  'refine': tiny.refine(gates=GATES),
}
BATCH = segmented.BATCH


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
def test_no_gradient_flows_from_a_later_token(name):
  model = MODELS[name]

  def outputs_KxTx1(params, token_1xT):
    states = segmented.states(params, token_1xT, model=model)
    bound = model.bind({'params': params})
    # A plan is made at the first readout, for all; the last answers anyway.
    asked = [
      bound.gate(gate, k, h_BxTxD)[0]
      for gate in GATES
      for k, h_BxTxD in enumerate(states[:-1])
      if k == 0 or gate != 'dat_multinomial'
    ]
    return jnp.stack([jnp.square(x_TxO).sum(-1) for x_TxO in asked])[..., None]

  segmented.assert_causal(tiny.params(model), outputs_KxTx1)


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
  grads, metrics = gradient_of(name, freeze=MODEL)
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


def outputs(bound, name, state_K):
  return jnp.stack([bound.gate(name, k, h) for k, h in enumerate(state_K)])


def test_segments_and_layers_are_one_grid_to_a_gate():
  """The loss over three segments is that of the three readouts at once."""
  model = MODELS['refine']
  params = tiny.params(model)
  bound = model.bind({'params': params})
  spec = spec_of('refine')
  _, metrics = gradient_of('refine')

  state_K = segmented.states(params, BATCH['tokens'], model=model)
  observations = [
    bound.observe(k, bound.read(k, h), None, BATCH['targets'])
    for k, h in enumerate(state_K)
  ]
  lesson = lesson_of()._replace(
    output_KxBxTxO=outputs(bound, 'dat', state_K),
    nll_KxBxT=jnp.stack([obs.nll for obs in observations]),
    argmax_KxBxT=jnp.stack([obs.argmax for obs in observations]),
    target_BxT=BATCH['targets'],
    depth_K=model.grid.depth_K,
    settings={
      'gate_oracle': spec.gating.gate_oracle,
      'gate_price': spec.gating.gate_price,
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
    output_KxBxTxO=outputs(bound, 'gain', state_K),
    kl_KxBxT=kl_KxBxT,
    depth_K=model.grid.depth_K,
  )
  _, metrics = gradient_of('refine')
  np.testing.assert_allclose(
    metrics['loss_gain'], gain.loss(lesson).mean(), rtol=1e-4
  )


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
    LossSpec(gating=GateSpec(('calm',), gate_weight=0.5), **changes)


@pytest.mark.parametrize(
  'model',
  [
    tiny.stack(readouts=(1, 2, 4), gates=('ouro',), gate_dim=8),
    tiny.refine(gates=('ouro',), readouts=(2,), carry_backprop=3),
  ],
  ids=['stack', 'refine'],
)
def test_a_gate_may_weigh_the_losses_of_readouts(model):
  """Ouro's first stage as one expression (eq. 4), differentiated as a whole."""
  params = tiny.params(model)
  num = model.grid.num_readouts
  spec = LossSpec(
    (1.0,) * num,
    segments=model.grid.segments,
    carry_backprop=model.cfg.carry_backprop,
    gating=GateSpec(
      ('ouro',),
      gate_weight=1.0,
      gate_dim=model.cfg.gate_dim,
      gate_entropy=0.1,
      gate_weighs=True,
    ),
  )

  def objective(params):
    bound = model.bind({'params': params})
    state_K = model.bind({'params': params}).states(BATCH['tokens'])
    logit_KxBxT = outputs(bound, 'ouro', state_K)[..., 0]
    log_p_KxBxT = state_gate.log_exit(logit_KxBxT)
    p_KxBxT = jnp.exp(log_p_KxBxT)
    logits_KxBxTxV = model.apply({'params': params}, BATCH['tokens'])
    log_q_KxBxTxV = jax.nn.log_softmax(logits_KxBxTxV)
    target_KxBxTx1 = jnp.broadcast_to(
      BATCH['targets'][None, ..., None], (*p_KxBxT.shape, 1)
    )
    nll_KxBxT = -jnp.take_along_axis(log_q_KxBxTxV, target_KxBxTx1, -1)[..., 0]
    entropy_BxT = -(p_KxBxT * log_p_KxBxT).sum(0)
    return ((p_KxBxT * nll_KxBxT).sum(0) - 0.1 * entropy_BxT).mean()

  value, expected = jax.jit(jax.value_and_grad(objective))(params)
  grads, metrics = segmented.gradient(params, model, spec, BATCH)
  tiny.assert_trees_close(grads, expected, 1e-4, 1e-5)
  np.testing.assert_allclose(metrics['loss_ouro'], value, rtol=1e-5)


def test_unless_a_gate_weighs_every_readout_counts_in_full():
  plain, _ = gradient_of('stack')
  weighed = spec_of('stack', gate_weighs=True)
  model = MODELS['stack']
  grads, _ = segmented.gradient(tiny.params(model), model, weighed, BATCH)
  difference = jax.tree.map(lambda a, b: np.abs(a - b).max(), plain, grads)
  assert max(jax.tree.leaves(difference['layer_0'])) > 1e-3
