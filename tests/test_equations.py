"""Models are their equations, as a NumPy reference writes them down."""

import jax
import numpy as np
import pytest

import reference
import tiny

LENGTH = 12
MODELS = {
  'pre-norm, GELU, own unembedding': tiny.stack(num_layers=3, readouts=(1, 3)),
  'post-norm, SwiGLU, tied, a norm per readout': tiny.stack(
    num_layers=2,
    norm='post',
    mlp='swiglu',
    tie_embeddings=True,
    readout_norm='per_readout',
    rope_base=100.0,
  ),
  'refine, added': tiny.refine(carry_init='fixed', carry_norm=True),
  'refine, projected': tiny.refine(
    carry_init='random', inject='concat', carry_norm=True
  ),
  'refine, gated': tiny.refine(
    carry_init='learned', inject='gate', readout_norm='per_readout'
  ),
  'refine, decayed': tiny.refine(
    carry_init='random', inject='decay', carry_norm=True
  ),
  'hrm': tiny.hrm(num_layers=2, segments=2, cycles=3, cycle_steps=2),
}


@pytest.mark.parametrize('model', MODELS.values(), ids=MODELS)
def test_logits_are_those_of_the_equations(model):
  params = tiny.params(model)
  batch = tiny.batch(1, LENGTH)
  logits_KxBxTxV = jax.jit(model.apply)({'params': params}, batch['tokens'])

  plain = tiny.plain(model, params)
  start = tiny.first_streams(model, params, batch['tokens'][0])
  state_KxTxD = reference.every_state(plain, batch['tokens'][0], start)
  assert len(state_KxTxD) == model.grid.num_readouts

  for k, state_TxD in enumerate(state_KxTxD):
    readout = k % model.grid.per_segment
    for t, state_D in enumerate(state_TxD):
      normed_D = reference.normed(plain, readout, state_D)
      expected_V = reference.logits(plain, normed_D)
      np.testing.assert_allclose(
        logits_KxBxTxV[k, 0, t], expected_V, rtol=1e-4, atol=1e-4
      )


def test_first_states_of_hrm_are_two():
  model = MODELS['hrm']
  no_token_T = np.zeros(LENGTH, np.int32)
  start = tiny.first_streams(model, tiny.params(model), no_token_T)
  assert set(start) == {'low', 'high'}
  assert (start['low'] != start['high']).all()


def test_hrm_runs_each_module_as_often_as_its_cycles_say():
  grid = MODELS['hrm'].grid
  # Three cycles of two runs of the low module and one of the high one.
  assert grid.depth_K == (3 * 3 * 2, 2 * 3 * 3 * 2)
