"""What readouts before the last have of their own, and maps that are fitted."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run

import tiny
from ease_jax import run as run_lib
from ease_jax.core.costs import adapter_flops
from ease_jax.core.freeze import MODEL as MODEL_STAYS
from ease_jax.core.freeze import Freeze, all_but_exits
from ease_jax.core.objective import LossSpec
from ease_jax.core.policies import POLICIES, ExitRule
from ease_jax.core.signals import SIGNALS
from ease_jax.train import fitting, freezing, loss, optimizer
from ease_jax.train.freezing import learned_of
from ease_jax.train.paths import leaves
from ease_jax.workdir import read_config

KINDS = ('map', 'low_rank', 'mlp')
MODEL = tiny.stack(readout_adapters=KINDS, readout_dim=3)
BARE = tiny.stack()
BATCH = tiny.batch(rows=4, length=8)
EXITS = all_but_exits(MODEL.grid.per_segment)


def adapters_of(params):
  return [name for name in params if name.startswith('readout_adapter_')]


def logits_of(model, params):
  return np.asarray(tiny.logits(params, BATCH['tokens'], model=model))


def test_a_model_starts_as_it_was():
  params = MODEL.init(jax.random.key(0), BATCH['tokens'])['params']
  bare = {k: v for k, v in params.items() if k not in adapters_of(params)}
  np.testing.assert_array_equal(logits_of(MODEL, params), logits_of(BARE, bare))


def test_every_readout_but_the_last_has_its_own():
  params = tiny.params(MODEL)
  names = [f'readout_adapter_{r}' for r in range(3)]
  assert sorted(adapters_of(params)) == names
  bare = {k: v for k, v in params.items() if k not in adapters_of(params)}
  with_KxBxTxV = logits_of(MODEL, params)
  without_KxBxTxV = logits_of(BARE, bare)
  moved_K = np.abs(with_KxBxTxV - without_KxBxTxV).max((1, 2, 3))
  assert (moved_K[:-1] > 0.1).all()
  assert moved_K[-1] == 0


def test_runs_share_them():
  model = tiny.refine(readout_adapters=('map',))
  params = tiny.params(model)
  assert adapters_of(params) == ['readout_adapter_0']
  bound = model.bind({'params': params})
  h_BxTxD = jax.random.normal(jax.random.key(0), (1, 2, 16))
  normed = [np.asarray(bound.normed(k, h_BxTxD)) for k in range(6)]
  for k in (2, 4):
    np.testing.assert_array_equal(normed[k], normed[0])
    np.testing.assert_array_equal(normed[k + 1], normed[1])
  assert np.abs(normed[0] - normed[1]).max() > 0.1


def gradient_of(freeze, weights=(1.0,) * 4):
  spec = LossSpec(weights, freeze=freeze)
  key = jax.random.key(0)
  grads, _ = loss.grid_gradient(
    tiny.params(MODEL), MODEL, spec, BATCH, jnp.int32(0), key
  )
  return grads


def test_a_loss_reaches_every_parameter_of_its_readout_alone():
  grads = gradient_of(Freeze(), (0.0, 1.0, 0.0, 0.0))
  for x in jax.tree.leaves(grads['readout_adapter_1']):
    assert np.abs(np.asarray(x)).max() > 0
  for name in ('readout_adapter_0', 'readout_adapter_2'):
    for x in jax.tree.leaves(grads[name]):
      assert not np.asarray(x).any()


def test_exits_learn_the_same_whether_the_model_is_frozen():
  free = gradient_of(Freeze())
  frozen = gradient_of(EXITS)
  for name, x in leaves(frozen).items():
    if name.startswith('readout_adapter_'):
      tiny.assert_trees_close(x, leaves(free)[name], rtol=1e-4, atol=1e-6)
    else:
      assert not np.asarray(x).any()


def test_ten_updates_leave_the_model_bit_for_bit():
  params = tiny.params(MODEL)
  spec = optimizer.OptimizerSpec(
    name='adamw',
    learning_rate=0.1,
    muon_learning_rate=0.0,
    warmup_steps=0,
    final_fraction=0.1,
    b1=0.9,
    b2=0.95,
    eps=1e-8,
    weight_decay=0.1,
    clip_norm=1.0,
    layer_decay=1.0,
    num_blocks=4,
    steps=10,
    freeze=EXITS,
  )
  rule = optimizer.build(spec)
  state = rule.init(params)
  moments = sum(x.size for x in jax.tree.leaves(state))
  own = sum(
    x.size
    for name in adapters_of(params)
    for x in jax.tree.leaves(params[name])
  )
  assert 2 * own <= moments < 2 * own + 10  # and some counts

  for _ in range(10):
    gradient = jax.tree.map(jnp.ones_like, params)
    updates, state = rule.update(gradient, state, params)
    params = jax.tree.map(jnp.add, params, updates)
  before = leaves(tiny.params(MODEL))
  for name, x in leaves(params).items():
    learns = name.startswith('readout_adapter_')
    assert (np.asarray(x) != before[name]).any() == learns


def test_names_of_the_optimizers_parts_are_those_in_older_checkpoints():
  params = {'gate_calm': jnp.zeros(1), 'embed': jnp.zeros(1)}
  assert freezing.labels(params, MODEL_STAYS) == {
    'gate_calm': 'gate',
    'embed': 'frozen',
  }


@pytest.mark.parametrize(
  'freeze, passes',
  [
    (Freeze(), (2, 3, 3)),
    (Freeze(('layer_0/*',)), (2, 3, 3)),
    (EXITS, (0, 2, 2)),
    (Freeze(('layer_*', 'embed')), (0, 3, 3)),
    (Freeze(('*',), ('gate_*',)), (0, 1, 1)),
  ],
)
def test_gradients_are_charged_where_they_go(freeze, passes):
  names = (*leaves(tiny.params(MODEL)), 'gate_calm/kernel')
  assert learned_of(freeze, names) == passes


# ------------------------------------------------------------------ their price


def test_adapters_are_charged_with_every_head_but_the_last():
  prices = MODEL.costs(8)
  bare = BARE.costs(8)
  own = 2 * 16 * (16 + 2 * 3 + 2 * 3)
  assert adapter_flops(MODEL.cfg) == own
  assert prices.full == bare.full

  def more(signal):
    rule = ExitRule(SIGNALS[signal], POLICIES['copy_state'])
    return prices.exit_K(rule) - bare.exit_K(rule)

  # A signal that looks at logits asks one on the way, and answers with it.
  on_the_way_K = own * np.asarray([1, 2, 3, 3])
  np.testing.assert_allclose(more('max_prob'), on_the_way_K)
  np.testing.assert_allclose(more('shortlist'), on_the_way_K)
  # One that looks at states has them where a token is answered.
  at_the_end_K = own * np.asarray([1, 1, 1, 0])
  np.testing.assert_allclose(more('state_change'), at_the_end_K)
  np.testing.assert_allclose(prices.static_K - bare.static_K, at_the_end_K)


# --------------------------------------------------------------- fitted maps


def unit(h_BxTxD):
  h_NxD = np.asarray(h_BxTxD, np.float64).reshape(-1, h_BxTxD.shape[-1])
  return h_NxD / np.sqrt((h_NxD**2).mean(-1, keepdims=True) + 1e-6)


def fitted_maps(model, params, ridge):
  fitted = fitting.fitted(model, params, iter([BATCH]), tokens=1, ridge=ridge)
  names = adapters_of(params)
  return [np.asarray(fitted[n]['map']['linear']['kernel']) for n in names]


@pytest.mark.parametrize(
  'model',
  [MODEL, tiny.refine(readout_adapters=('map',))],
  ids=('stack', 'refine'),
)
def test_a_fitted_map_is_the_solution_of_least_squares(model):
  """Of rows of states, and of rows that pull to the identity."""
  params = tiny.params(model)
  bound = model.bind({'params': params})
  states = bound.states(jnp.asarray(BATCH['tokens']))
  per_segment = model.grid.per_segment
  ridge = 0.01
  for r, map_DxD in enumerate(fitted_maps(model, params, ridge)):
    x_NxD = np.concatenate([unit(h) for h in states[r::per_segment]])
    y_NxD = np.concatenate([unit(states[-1])] * model.grid.segments)
    pull_DxD = np.sqrt(ridge * len(x_NxD)) * np.eye(16)
    wanted_DxD, *_ = np.linalg.lstsq(
      np.concatenate([x_NxD, pull_DxD]),
      np.concatenate([y_NxD, pull_DxD]),
    )
    np.testing.assert_allclose(map_DxD + np.eye(16), wanted_DxD, 1e-3, 1e-4)


def test_a_strong_pull_leaves_the_identity():
  for map_DxD in fitted_maps(MODEL, tiny.params(MODEL), 1e9):
    assert np.abs(map_DxD).max() < 1e-6


def test_padding_is_not_fitted_to():
  params = tiny.params(MODEL)
  (first, *_) = fitted_maps(MODEL, params, 0.01)
  mask = np.ones_like(BATCH['mask'])
  mask[2:] = 0
  half = {name: x[:2] for name, x in BATCH.items()}

  def fit(batch):
    found = fitting.fitted(MODEL, params, iter([batch]), tokens=1, ridge=0.01)
    return np.asarray(found['readout_adapter_0']['map']['linear']['kernel'])

  np.testing.assert_allclose(
    fit(BATCH | {'mask': mask}), fit(half), rtol=1e-3, atol=1e-4
  )
  assert np.abs(fit(half) - first).max() > 1e-3


# ------------------------------------------------------------------- as a run


def config_of(finished_run, **changes):
  """Maps that were fitted to a finished run, and nothing else."""
  c = small_run.make_beside(finished_run, fit_tokens=64)
  c.model.readout_adapters = ('map',)
  c.loss.weights = 'uniform'
  c.update_from_flattened_dict(changes)
  return c


@pytest.fixture(scope='module')
def mapped(finished_run, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('mapped') / 'run'
  run_lib.run(config_of(finished_run), workdir)
  return workdir


def params_of(workdir):
  return run_lib.load_model(read_config(workdir), workdir).params


def test_a_run_may_only_fit_maps(finished_run, mapped):
  before = params_of(finished_run[1])
  after = dict(params_of(mapped))
  own = after.pop('readout_adapter_0')
  tiny.assert_trees_equal(before, after)
  assert np.abs(own['map']['linear']['kernel']).max() > 1e-3
  assert (mapped / 'report.html').exists()


def test_what_was_fitted_is_not_fitted_again(finished_run, mapped, tmp_path):
  shutil.copytree(mapped, tmp_path / 'run')
  checkpoints = small_run.snapshot(tmp_path / 'run' / 'checkpoints')
  run_lib.run(config_of(finished_run), tmp_path / 'run', 'train')
  again = small_run.snapshot(tmp_path / 'run' / 'checkpoints')
  assert again == checkpoints


def test_training_goes_on_from_fitted_maps(finished_run, mapped, tmp_path):
  """Norms of their own start as the one that all readouts had."""
  changes = {'train.steps': 4, 'model.readout_norm': 'per_readout'}
  c = config_of(finished_run, **changes)
  run_lib.run(c, tmp_path / 'run', 'train')
  before = params_of(mapped)
  after = params_of(tmp_path / 'run')
  for name in ('embed', 'layer_0', 'layer_1'):
    tiny.assert_trees_equal(before[name], after[name])
  tiny.assert_trees_equal(before['readout_norm'], after['readout_norm_1'])
  for name, source in (
    ('readout_norm_0', 'readout_norm'),
    ('readout_adapter_0', 'readout_adapter_0'),
  ):
    (here,) = jax.tree.leaves(after[name])
    (there,) = jax.tree.leaves(before[source])
    moved = np.abs(np.asarray(here) - np.asarray(there)).max()
    assert 0 < moved < 0.1, name


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'train.init_from': ''}, "train.init_from='' names none"),
    (
      {'model.readout_adapters': ()},
      "readout_adapters=() has none; add 'map', a model.screen_rank",
    ),
    ({'model.readout_adapters': ('maps',)}, 'model.readout_adapters'),
    ({'model.readout_dim': 3}, 'model.readout_dim=3 has no effect'),
    ({'model.readouts': (2,)}, 'the one readout of a segment is the last'),
    ({'train.fit_ridge': 0.0}, 'train.fit_ridge=0.0'),
    ({'train.freeze_paths': ('embed',)}, 'has no effect'),
    ({'train.freeze': 'paths'}, 'train.freeze_paths=()'),
    (
      {'train.freeze': 'paths', 'train.freeze_paths': ('layers_*',)},
      "names 'layers_*', and no parameter is called like that: there are",
    ),
    (
      {
        'train.freeze': 'paths',
        'train.freeze_paths': ('*',),
        'train.steps': 4,
      },
      'leaves nothing to learn',
    ),
    (
      {'train.steps': 4, 'loss.weights': 'final'},
      'trains readouts before the last',
    ),
  ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
  finished_run, tmp_path, changes, words
):
  c = config_of(finished_run, **changes)
  assert words in small_run.refusal(c, tmp_path / 'run')


def test_patterns_hold_what_they_name(finished_run, tmp_path):
  changes = {
    'train.freeze': 'paths',
    'train.freeze_paths': ('layer_0/*', 'embed'),
    'train.fit_tokens': 0,
    'train.steps': 2,
  }
  c = config_of(finished_run, **changes)
  run_lib.run(c, tmp_path / 'run', 'train')
  before = leaves(params_of(finished_run[1]))
  for name, x in leaves(params_of(tmp_path / 'run')).items():
    if name.startswith('readout_adapter_'):
      continue
    stays = name.startswith(('layer_0/', 'embed'))
    assert (np.asarray(x) == before[name]).all() == stays, name
