"""States that are kept and learned from again, and what is done once."""

import json

import jax
import numpy as np
import pytest
import small_run

import tiny
from ease_jax import run as run_lib
from ease_jax import specs
from ease_jax.study import equal
from ease_jax.train import cached, fitting, once
from ease_jax.train.stages import updating
from ease_jax.train.update import init_state

KEPT = 3  # batches


def config_of(finished_run, **changes):
  """Maps and MLPs that learn what the last of two layers says."""
  c = small_run.make_beside(finished_run)
  c.update_from_flattened_dict(
    {
      'model.readout_adapters': ('map', 'mlp'),
      'model.readout_dim': 4,
      'model.readout_norm': 'per_readout',
      'loss.weights': 'uniform',
      'loss.target': 'distill',
      'loss.gates': ('gain',),
      'train.steps': 8,
      'train.batch_size': 4,
      'train.cached_batches': KEPT,
      **changes,
    }
  )
  return c


@pytest.mark.parametrize('accumulate', [1, 2])
def test_updates_are_those_of_the_same_batches(finished_run, accumulate):
  c = config_of(finished_run, **{'train.accumulate': accumulate})
  run_specs = specs.from_config(c, tiny.VOCAB)
  after = {}
  for num in (KEPT, 0):
    c.train.cached_batches = num
    model = run_specs.body
    state = init_state(
      jax.random.key(0), model=model, opt_spec=run_specs.optimizer
    )
    update = updating(
      specs.from_config(c, tiny.VOCAB).train,
      model,
      run_specs.loss,
      seed=0,
      key=jax.random.key(1),
      teacher=None,
      opt_spec=run_specs.optimizer,
    )
    losses = []
    for step in range(7):
      batch = tiny.batch(4, 8, seed=step % KEPT)
      state, metrics = update(step, state, batch)
      losses.append(metrics['loss'])
    after[num] = state.params, losses
  assert np.ptp(after[0][1]) > 1e-3  # batches differ
  tiny.assert_trees_close(after[KEPT], after[0], rtol=1e-5, atol=1e-6)


class Counted:
  """Batches that are numbers; counts those that were read."""

  def __init__(self):
    self.read = 0

  def __next__(self):
    self.read += 1
    return self.read


def test_the_first_batches_come_again():
  source = Counted()
  batches = cached.Repeated(source, KEPT)
  seen = [next(batches) for _ in range(5)]
  assert seen == [1, 2, 3, 1, 2]
  assert source.read == KEPT
  other = cached.Repeated(Counted(), KEPT)
  other.set_state(batches.get_state())
  assert [next(other) for _ in range(4)] == [3, 1, 2, 3]


def test_memory_is_said(finished_run):
  spec = specs.from_config(config_of(finished_run), tiny.VOCAB).train
  (said,) = cached.described(spec, tiny.stack(), 500)  # of 16 numbers
  assert said == 'keeps the states of 6,000 tokens at 4 readouts, 1.5 MB'


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'train.freeze': 'nothing'}, 'train.freeze=nothing changes it'),
    ({'train.cached_batches': 8}, 'no effect with train.steps=8'),
    ({'model.dropout': 0.1}, 'model.dropout=0.1 does not promise'),
    ({'train.layer_dropout': 0.5}, 'train.layer_dropout=0.5 does not'),
    ({'loss.exit_threshold': 0.5}, 'loss.exit_threshold=0.5 does not'),
    ({'model.readout_adapters': ('block', 'mlp')}, "('block', 'mlp') does not"),
    (
      {'model.body': 'refine', 'model.segments': 2},
      'model.body=refine with model.segments=2 does not promise',
    ),
  ],
)
def test_what_moves_states_is_refused(finished_run, tmp_path, changes, words):
  c = config_of(finished_run, **changes)
  assert words in small_run.refusal(c, tmp_path / 'run')


# ----------------------------------------------------------- what is done once


@pytest.fixture(scope='module')
def fitted(finished_run, tmp_path_factory):
  """A run with maps and a screen, trained on states that it keeps."""
  c = config_of(finished_run)
  c.train.fit_tokens = 50  # 2 batches of 4 x 8 tokens
  c.model.screen_rank = 2
  c.model.screen_candidates = 3
  workdir = tmp_path_factory.mktemp('kept') / 'run'
  run_lib.run(c, workdir)
  return c, workdir


def hand_count(c, vocab_size):
  """FLOPs of two layers of width 8 on windows of 8, fits and kept states."""
  dim = 8
  layer = 2 * dim * (4 * dim + 2 * c.model.block.mlp.dim) + 4 * 8 * dim
  forward = 2 * layer
  heads = 2 * 2 * (dim + vocab_size) + 3 * 2 * dim + 2 * dim * vocab_size
  moments = 3 * 2 * dim**2
  fit = 64 * (forward + moments) + 64 * (forward + heads)
  a_map = (2 / 3 + 2) * dim**3
  screen = 2 * vocab_size * dim**2 + (1 / 3 + 4 + 9 + 2 / 3) * dim**3
  screen += 2 * 2 * dim**2 * 2 + 2 * vocab_size * dim * 2
  return fit + a_map + screen + KEPT * 32 * forward


def test_results_count_what_was_done_once(fitted):
  c, workdir = fitted
  results = json.loads((workdir / 'results.json').read_text())
  vocab_size = results['model']['vocab_size']
  by_hand = hand_count(c, vocab_size)
  run_specs = specs.from_config(c, vocab_size)
  assert run_specs.once_flops == pytest.approx(by_hand)
  total = by_hand + run_specs.train_flops * 8 * 32
  assert results['train']['flops'] == pytest.approx(total)
  assert equal.train_flops(c, vocab_size) == pytest.approx(total)

  c = c.copy_and_resolve_references()
  c.train.cached_batches = 0
  anew = specs.from_config(c, vocab_size)
  forward = anew.body.costs(8).teaching(0)
  assert anew.train_flops - run_specs.train_flops == pytest.approx(forward)


def test_moments_are_what_xla_counts(optimized):
  model = tiny.stack(dim=64, mlp_dim=256, readout_adapters=('map',))
  params = jax.eval_shape(lambda: tiny.params(model))
  batch = tiny.batch(4, 32)
  lowered = fitting._sums.lower(params, batch, model=model)
  flops = lowered.compile().cost_analysis()['flops']
  products = 2 * 3 + 1
  counted = once.states_flops(model.costs(32)) + products * 2 * 64**2
  counted *= 4 * 32
  assert counted < flops
  assert counted == pytest.approx(flops, rel=0.15)


def test_equal_training_leaves_room_for_what_is_done_once(fitted):
  c, _ = fitted
  like = c.copy_and_resolve_references()
  like.train.fit_tokens = 0
  like.model.screen_rank = 0
  like.model.screen_candidates = 1000
  like.train.steps = 4000
  same = equal.with_equal_training(c, like, 50)
  assert equal.train_flops(same, 50) == pytest.approx(
    equal.train_flops(like, 50), rel=1e-3
  )
  like.train.steps = 4
  like.train.cached_batches = 0
  like.optimizer.warmup_steps = 0
  c = c.copy_and_resolve_references()
  c.train.fit_tokens = 10**6
  with pytest.raises(specs.config_lib.ConfigError, match='lower them'):
    equal.with_equal_training(c, like, 50)
