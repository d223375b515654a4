"""Confidence among the most frequent tokens, the same ones everywhere."""

import jax
import numpy as np
import pytest
import small_run

import tiny
from ease_jax import run as run_lib
from ease_jax.checks import ConfigError
from ease_jax.core import frequent
from ease_jax.core.policies import POLICIES, ExitRule
from ease_jax.core.signals import SIGNALS
from ease_jax.evaluate import passes
from ease_jax.train import fitting
from ease_jax.workdir import read_config

NUM = 6
MODEL = tiny.stack(
  readouts=(1, 2, 4), frequent_tokens=NUM, readout_adapters=('map',)
)
BATCH = tiny.batch(2, 16)
PARAMS = tiny.params(MODEL)
RULE = ExitRule(SIGNALS[frequent.NAME], POLICIES['copy_state'])


def test_scores_are_shares_among_these_tokens():
  dump = passes.grid_dump(MODEL, PARAMS, lambda: [BATCH], (frequent.NAME,))
  logits_KxBxTxV = np.asarray(tiny.logits(PARAMS, BATCH['tokens'], model=MODEL))
  id_C = np.asarray(PARAMS['frequent'], int)
  assert len(set(id_C)) == NUM < tiny.VOCAB
  share_KxBxT = jax.nn.softmax(logits_KxBxTxV[..., id_C]).max(-1)
  score_KxBxT = dump.score_KxRxT[frequent.NAME]
  np.testing.assert_allclose(score_KxBxT, share_KxBxT, 1e-5, 1e-5)


def test_only_their_logits_are_charged():
  prices = MODEL.costs(8.0)
  asking = 2 * MODEL.cfg.dim * NUM + prices.adapter_K[0]
  assert prices.asking(RULE, 0) == asking
  # The head answers once, and its map is not paid for twice.
  exit_K = prices.exit_K(RULE) - prices.body_K - prices.fills_K(RULE.policy)
  few = 2 * MODEL.cfg.dim * NUM
  wanted = [prices.head + asking, prices.head + 2 * asking]
  np.testing.assert_allclose(exit_K[:2], wanted)
  assert exit_K[2] == pytest.approx(prices.head + 2 * asking)
  assert few < prices.head


@pytest.mark.parametrize('adapters', [(), ('map',)])
def test_they_are_counted_in_the_text(adapters):
  model = tiny.stack(frequent_tokens=3, readout_adapters=adapters)
  batch = tiny.batch(2, 16)
  batch['targets'] = np.full((2, 16), 7, np.int32)
  batch['targets'][:, :5] = 2
  batch['targets'][:, 5:7] = 4
  batch['mask'][:, 7:9] = 0
  batch['targets'][:, 7:9] = 11  # padding
  found = fitting.fitted(
    model, tiny.params(model), iter([batch]), tokens=8, ridge=1e-3
  )
  np.testing.assert_array_equal(found['frequent'], [7, 2, 4])


def test_a_coda_is_between_them_and_the_head():
  model = tiny.refine(prelude=1, coda=1, frequent_tokens=NUM)
  with pytest.raises(ConfigError, match="'frequent' looks at logits"):
    model.check(RULE)


# ------------------------------------------------------------------------ runs


def config_of(finished_run, **changes):
  c = small_run.make_beside(finished_run, fit_tokens=64)
  c.loss.weights = 'uniform'
  c.model.frequent_tokens = NUM
  c.exit.signals = (frequent.NAME,)
  c.update_from_flattened_dict(changes)
  return c


def test_a_run_counts_evaluates_and_writes(finished_run, tmp_path):
  c = config_of(finished_run)
  run_lib.run(c, tmp_path / 'run')
  params = run_lib.load_model(
    read_config(tmp_path / 'run'), tmp_path / 'run'
  ).params
  id_C = np.asarray(params['frequent'])
  assert len(set(id_C)) == NUM
  assert (id_C == id_C.astype(int)).all()
  assert '>frequent<' in (tmp_path / 'run' / 'report.html').read_text()


@pytest.mark.parametrize(
  'changes, words',
  [
    (
      {'model.frequent_tokens': 0, 'model.readout_adapters': ('map',)},
      'model.frequent_tokens=0 counts none; raise it',
    ),
    ({'train.fit_tokens': 0}, 'train.fit_tokens=0 reads none of it'),
    ({'model.frequent_tokens': 10_000}, 'no more than the'),
    ({'model.frequent_tokens': 1}, 'must be at least 2'),
    ({'model.frequent_tokens': -1}, 'model.frequent_tokens=-1'),
  ],
)
def test_what_cannot_be_is_refused(finished_run, tmp_path, changes, words):
  c = config_of(finished_run, **changes)
  assert words in small_run.refusal(c, tmp_path / 'run')
