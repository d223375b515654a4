"""Readouts before the last with an unembedding of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_run

import tiny
from ease_jax import decode
from ease_jax import run as run_lib
from ease_jax.checks import ConfigError
from ease_jax.core.distillation import TeachingSpec
from ease_jax.core.freeze import NOTHING, all_but_exits
from ease_jax.core.objective import LossSpec
from ease_jax.evaluate import passes
from ease_jax.train import loss
from ease_jax.train.freezing import learned_of
from ease_jax.train.paths import leaves
from ease_jax.workdir import read_config

MODEL = tiny.stack(readouts=(1, 2, 4), readout_adapters=('head',))
BARE = tiny.stack(readouts=(1, 2, 4))
BATCH = tiny.batch(rows=2, length=8)
PARAMS = tiny.params(MODEL)
OWN = ('readout_head_0', 'readout_head_1')


def logits_of(model, params):
  return np.asarray(tiny.logits(params, BATCH['tokens'], model=model))


def copies(params):
  """Heads of readouts that are the shared one."""
  return params | {name: params['unembed'] for name in OWN}


def test_each_is_of_one_readout():
  bare = {name: x for name, x in PARAMS.items() if name not in OWN}
  assert set(PARAMS) - set(bare) == set(OWN)
  shared_KxBxTxV = logits_of(BARE, bare)
  np.testing.assert_array_equal(
    logits_of(MODEL, copies(PARAMS)), shared_KxBxTxV
  )
  moved_K = np.abs(logits_of(MODEL, PARAMS) - shared_KxBxTxV).max((1, 2, 3))
  assert (moved_K[:-1] > 0.1).all()
  assert moved_K[-1] == 0


def test_runs_share_them():
  model = tiny.refine(readout_adapters=('head',))
  bound = model.bind({'params': tiny.params(model)})
  table_K = [np.asarray(bound.unembedding(k)) for k in range(6)]
  for k in (2, 4):
    np.testing.assert_array_equal(table_K[k], table_K[0])
    np.testing.assert_array_equal(table_K[k + 1], table_K[1])
  assert np.abs(table_K[0] - table_K[1]).max() > 0.1


def gradient_of(freeze=NOTHING, weights=(1.0,) * 3, **teaching):
  target = 'distill' if teaching else 'label'
  spec = LossSpec(
    weights, freeze=freeze, teaching=TeachingSpec(target, **teaching)
  )
  key = jax.random.key(0)
  return loss.grid_gradient(PARAMS, MODEL, spec, BATCH, jnp.int32(0), key)


def test_a_loss_reaches_the_head_of_its_readout_alone():
  grads, _ = gradient_of(weights=(0.0, 1.0, 0.0))
  assert np.abs(grads[OWN[1]]).max() > 0
  assert not np.asarray(grads[OWN[0]]).any()
  assert not np.asarray(grads['unembed']).any()


def test_they_learn_what_the_last_head_says():
  """The loss is the distance of two softmaxes of two unembeddings."""
  _, named = gradient_of(weights=(1.0, 0.0, 0.0), teacher_weight=1.0)
  log_p_KxBxTxV = np.asarray(jax.nn.log_softmax(logits_of(MODEL, PARAMS)))
  p_BxTxV = np.exp(log_p_KxBxTxV[-1])
  far_BxT = (p_BxTxV * (log_p_KxBxTxV[-1] - log_p_KxBxTxV[0])).sum(-1)
  assert float(named['loss_1']) == pytest.approx(
    float(far_BxT.mean()), rel=1e-4
  )


def test_they_learn_the_same_where_the_model_stays():
  free, _ = gradient_of()
  frozen, _ = gradient_of(all_but_exits(3))
  for name, x in leaves(frozen).items():
    if name in OWN:
      tiny.assert_trees_close(x, free[name], rtol=1e-4, atol=1e-6)
    else:
      assert not np.asarray(x).any()
  assert learned_of(all_but_exits(3), leaves(PARAMS)) == (0, 2, 3)


def test_kl_compares_what_two_heads_say():
  dump = passes.grid_dump(MODEL, PARAMS, lambda: [BATCH], ('kl',))
  log_p_KxBxTxV = np.asarray(jax.nn.log_softmax(logits_of(MODEL, PARAMS)))
  before, here = log_p_KxBxTxV[:-1], log_p_KxBxTxV[1:]
  kl = (np.exp(before) * (before - here)).sum(-1)
  np.testing.assert_allclose(-dump.score_KxRxT['kl'][1:], kl, 1e-3, 1e-5)


def test_they_do_not_draft():
  with pytest.raises(ConfigError, match='heads of their own'):
    decode.candidates(MODEL)


# ------------------------------------------------------------------------ runs


def config_of(finished_run, **changes):
  c = small_run.make_beside(finished_run)
  c.model.readout_adapters = ('head',)
  c.loss.weights = 'uniform'
  c.update_from_flattened_dict(changes)
  return c


def test_a_run_trains_evaluates_and_writes_with_them(finished_run, tmp_path):
  """They start as the head that all readouts shared."""
  run_lib.run(config_of(finished_run), tmp_path / 'run')
  there = read_config(finished_run[1])
  before = run_lib.load_model(there, finished_run[1]).params
  here = read_config(tmp_path / 'run')
  after = dict(run_lib.load_model(here, tmp_path / 'run').params)
  own = after.pop('readout_head_0')
  tiny.assert_trees_equal(before, after)
  shared = before.get('unembed', before['embed'])
  moved = np.abs(own - shared).max()
  assert 0 < moved < 0.1
  assert (tmp_path / 'run' / 'report.html').exists()


def test_only_own_heads_have_a_gradient_where_the_last_one_stays():
  prices = MODEL.costs(8)

  def trained(*share_K):
    passes = dict(cell_passes=0, head_passes=2, early_passes=3)
    return prices.train_per_token(share_K, **passes)

  forward = trained(0, 0, 0)
  assert trained(1, 0, 0) - forward == pytest.approx(3 * prices.whole_head)
  assert trained(0, 0, 1) - forward == pytest.approx(2 * prices.whole_head)


@pytest.mark.parametrize(
  'changes, words',
  [
    # From scratch, of which one never learns.
    (
      {
        'train.init_from': '',
        'train.freeze': 'nothing',
        'loss.weights': 'final',
      },
      'begin at random',
    ),
    # Copies for ever.
    ({'train.freeze': 'model', 'loss.gates': ('calm',)}, 'readout_head_0'),
  ],
)
def test_heads_that_never_learn_are_refused(
  finished_run, tmp_path, changes, words
):
  c = config_of(finished_run, **changes)
  assert words in small_run.refusal(c, tmp_path / 'run')


def test_a_screen_beside_them_is_refused(finished_run, tmp_path):
  c = config_of(
    finished_run, **{'model.screen_rank': 2, 'train.fit_tokens': 64}
  )
  text = small_run.refusal(c, tmp_path / 'run')
  assert 'model.screen_rank=2 is of the head of all readouts' in text
