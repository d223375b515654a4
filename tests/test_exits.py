"""Exit-consistent evaluation tells policies apart, and has a control."""

import pathlib

import jax
import numpy as np
import pytest
import sweeps
import training

import tiny
from ease_jax import specs
from ease_jax.evaluate.sweep import Evaluator
from ease_jax.train import update

POLICIES = ('recompute', 'copy_state', 'drop')
WINDOW = 32


def test_optimistic_scores_are_labelled_and_are_other_scores():
  model = tiny.stack(readouts=(1, 2, 4))
  spec = sweeps.spec(policies=POLICIES)
  task = sweeps.task(12, select=40, test=40)
  measured = Evaluator('select', spec, model, tiny.params(model), task)
  rows = {
    policy: measured.measure(tiny.point('max_prob', policy, (0.45, 0.5, 1.0)))
    for policy in POLICIES
  }
  assert len({row.quality.nll for row in rows.values()}) == 3
  for policy, row in rows.items():
    assert row.point.policy == policy
    assert (row.cost.compute_uncharged is None) == (policy != 'recompute')
  charged = rows['recompute'].cost
  assert charged.compute > charged.compute_uncharged


@pytest.fixture(scope='module')
def trained():
  """A model that has learned something: the bytes of this file."""
  text = np.frombuffer(pathlib.Path(__file__).read_bytes(), np.uint8)

  def windows(starts):
    window = np.stack([text[i : i + WINDOW + 1] for i in starts])
    window = window.astype(np.int32)
    return {
      'tokens': window[:, :-1],
      'targets': window[:, 1:],
      'mask': np.ones((len(window), WINDOW), np.float32),
    }

  c = training.make_plain_config(steps=200)
  tiny.update_model(
    c.model, num_layers=4, dim=32, num_heads=2, num_kv_heads=2, mlp_dim=64
  )
  c.loss.weights = 'uniform'
  c.optimizer.learning_rate = 0.01
  c.optimizer.warmup_steps = 20
  run = specs.from_config(c, vocab_size=256)
  model = run.body
  state = update.init_state(
    jax.random.key(0), model=model, opt_spec=run.optimizer
  )

  rng = np.random.default_rng(0)
  room = len(text) - WINDOW - 1
  for step in range(c.train.steps):
    batch = windows(rng.integers(0, room, 16))
    state, _ = update.train_step(
      state,
      batch,
      jax.random.key(step),
      model=model,
      loss_spec=run.loss,
      opt_spec=run.optimizer,
      accumulate=1,
    )
  return model, state.params, windows(range(0, room, 300))


@pytest.mark.parametrize('threshold', [0.4, 0.7])
def test_projected_keys_and_values_must_not_be_copied(trained, threshold):
  """R11: layers that see another layer's K/V lose; copy_state hardly does."""
  model, params, batch = trained
  nll = {}
  for policy in ('recompute', 'copy_state', 'copy_kv'):
    point = tiny.point('max_prob', policy, threshold)
    walk = tiny.masked(model, params, point, batch)
    nll[policy] = float(walk.observation.nll.mean())
    assert 0.05 < (walk.exit_BxT < 3).mean() < 0.95

  lost = nll['copy_state'] - nll['recompute']
  assert nll['copy_kv'] - nll['recompute'] > max(4 * lost, 0.005)
