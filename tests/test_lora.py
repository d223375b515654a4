"""Products of a low rank beside the matrices of layers, which learn alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run

import tiny
from ease_jax import run as run_lib
from ease_jax.core.flops import low_rank_flops
from ease_jax.core.freeze import Freeze, all_but_lora, is_beside
from ease_jax.core.objective import LossSpec
from ease_jax.model.own import merged
from ease_jax.train import loss
from ease_jax.train.freezing import learned_of
from ease_jax.train.paths import leaves
from ease_jax.workdir import read_config

RANK = 2
BODIES = {
  'stack': dict(body='stack'),
  'refine': dict(body='refine', num_layers=2, segments=2, prelude=1, coda=1),
  'runs': dict(
    body='refine', num_layers=1, segments=3, per_run='lora', rank=3, prelude=1
  ),
  'hrm': dict(body='hrm', num_layers=1, segments=2, norm='post'),
}
every_body = pytest.mark.parametrize('name', BODIES)
MODEL = tiny.stack(lora_rank=RANK)
BATCH = tiny.batch(rows=2, length=8)


def model_of(name, **changes):
  return tiny.body(**(BODIES[name] | changes))


def without(params):
  """The same model, products left out and not merged."""
  flat = {name: x for name, x in leaves(params).items() if not is_beside(name)}
  tree = {}
  for name, x in flat.items():
    *groups, last = name.split('/')
    place = tree
    for group in groups:
      place = place.setdefault(group, {})
    place[last] = x
  return tree


def logits_of(model, params):
  return np.asarray(model.apply({'params': params}, BATCH['tokens']))


@every_body
def test_a_model_starts_as_it_was(name):
  model = model_of(name, lora_rank=RANK)
  params = model.init(jax.random.key(0), BATCH['tokens'])['params']
  np.testing.assert_array_equal(
    logits_of(model, params), logits_of(model_of(name), without(params))
  )


@every_body
def test_merged_it_says_the_same(name):
  model = model_of(name, lora_rank=RANK)
  params = tiny.params(model)
  logits = logits_of(model, params)
  plain = logits_of(model_of(name), merged(params))
  np.testing.assert_allclose(plain, logits, rtol=1e-3, atol=1e-3)
  bare = logits_of(model_of(name), without(params))
  assert np.abs(bare - logits).max() > 0.1


def test_a_block_of_a_readout_has_none():
  model = tiny.stack(lora_rank=RANK, readout_adapters=('block',))
  names = [name for name in leaves(tiny.params(model)) if is_beside(name)]
  groups = {name.split('/')[0] for name in names}
  assert groups == {f'layer_{i}' for i in range(4)}


def gradient_of(freeze):
  spec = LossSpec((1.0,) * 4, freeze=freeze)
  params = tiny.params(MODEL)
  key = jax.random.key(0)
  grads, _ = loss.grid_gradient(params, MODEL, spec, BATCH, jnp.int32(0), key)
  return leaves(grads)


def test_they_learn_the_same_where_the_matrices_stay():
  free = gradient_of(Freeze())
  frozen = gradient_of(all_but_lora(4))
  beside = [name for name in frozen if is_beside(name)]
  assert len(beside) == 4 * 6 * 2  # layers, matrices, factors
  for name, x in frozen.items():
    if name in beside:
      tiny.assert_trees_close(x, free[name], rtol=1e-4, atol=1e-6)
      assert np.abs(x).max() > 0
    else:
      assert not np.asarray(x).any()
  assert learned_of(all_but_lora(4), frozen) == (1, 2, 2)


# ------------------------------------------------------------------ their price


def test_they_are_charged_with_every_layer():
  bare = tiny.stack().costs(8)
  prices = MODEL.costs(8)
  beside = low_rank_flops(MODEL.cfg, RANK)
  np.testing.assert_allclose(prices.cell_L - bare.cell_L, beside)
  fill = low_rank_flops(MODEL.cfg, RANK, 'key', 'value')
  np.testing.assert_allclose(prices.fill_L - bare.fill_L, fill)

  def trained(prices, passes):
    return prices.train_per_token((0.0,) * 4, cell_passes=passes)

  # Forward, back to the states, and back to the products alone.
  more = trained(prices, 1) - trained(bare, 1)
  assert more == pytest.approx(3 * 4 * beside)


def test_what_routers_spare_is_not_learned_either():
  fields = dict(router='mod', every=1, capacity=0.25)
  more, bare = (
    tiny.stack(**fields, lora_rank=rank).costs(8) for rank in (RANK, 0)
  )
  np.testing.assert_allclose(more.learned_L, more.trained_L - bare.trained_L)
  assert more.learned_L[0] == low_rank_flops(MODEL.cfg, RANK) / 4


def test_a_coda_and_a_prelude_that_is_made_again_learn_too():
  prices = tiny.refine(prelude=1, coda=1, lora_rank=RANK).costs(8)
  beside = low_rank_flops(MODEL.cfg, RANK)
  last = np.eye(prices.grid.num_readouts)[-1]

  def trained(**how):
    return prices.train_per_token(last, cell_passes=1, head_passes=2, **how)

  cells = 2 * prices.block_L[:-1].sum() + prices.extra_L[:-1].sum() * 2
  learned = beside * len(prices.block_L)
  heads = 2 * (prices.whole_head + prices.block_L[-1])
  assert trained() == pytest.approx(cells + heads + learned)
  again = 2 * prices.block_L[0] + beside
  assert trained(again=3) - trained() == pytest.approx(3 * again)


# ------------------------------------------------------------------------ runs


def config_of(finished_run, **changes):
  """LoRA on a finished run, and all losses."""
  c = small_run.make_beside(finished_run, 'lora')
  c.model.lora_rank = RANK
  c.loss.weights = 'uniform'
  c.update_from_flattened_dict(changes)
  return c


def params_of(workdir):
  return run_lib.load_model(read_config(workdir), workdir).params


@pytest.fixture(scope='module')
def tuned(finished_run, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('lora') / 'tuned'
  run_lib.run(config_of(finished_run), workdir)
  return workdir


def test_a_run_leaves_the_model_bit_for_bit(finished_run, tuned):
  there = params_of(finished_run[1])
  here = params_of(tuned)
  tiny.assert_trees_equal(without(here), there)
  for name, x in leaves(here).items():
    if is_beside(name):
      assert np.abs(x).max() > 0
  assert (tuned / 'report.html').exists()


def test_a_run_goes_on_from_them(finished_run, tuned, tmp_path):
  """And what is new learns where they stay."""
  changes = {
    'train.init_from': str(tuned),
    'train.freeze': 'exits',
    'model.readout_adapters': ('map',),
  }
  run_lib.run(config_of(finished_run, **changes), tmp_path / 'run', 'train')
  after = params_of(tmp_path / 'run')
  own = after.pop('readout_adapter_0')
  tiny.assert_trees_equal(after, params_of(tuned))
  assert np.abs(own['map']['linear']['kernel']).max() > 0


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'model.lora_rank': 0}, 'model.lora_rank=0 has none; give a rank'),
    ({'model.lora_rank': -1}, 'model.lora_rank=-1'),
    ({'train.init_from': ''}, "train.init_from='' names none"),
    (
      {'train.freeze': 'exits', 'model.readout_adapters': ('map',)},
      'layer_0/lora/',
    ),
    (
      {
        'train.freeze': 'paths',
        'train.freeze_paths': ('layer_*',),
        'model.readout_adapters': ('map',),
      },
      'layer_0/lora/',
    ),
    (
      {
        'train.steps': 0,
        'optimizer.warmup_steps': 0,
        'train.fit_tokens': 64,
        'model.readout_adapters': ('map',),
      },
      'layer_0/lora/',
    ),
  ],
)
def test_what_cannot_be_is_refused(finished_run, tmp_path, changes, words):
  c = config_of(finished_run, **changes)
  assert words in small_run.refusal(c, tmp_path / 'run')


def test_another_rank_is_refused(finished_run, tuned, tmp_path):
  changes = {'train.init_from': str(tuned), 'model.lora_rank': RANK + 1}
  text = small_run.refusal(config_of(finished_run, **changes), tmp_path / 'run')
  assert f'train.init_from={tuned} has layer_0' in text
