"""Candidates that the first readout names, and later ones are asked about."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from ease_jax import ConfigError, config, decode, specs
from ease_jax.core import observations, shortlist
from ease_jax.core.policies import POLICIES, ExitRule
from ease_jax.core.signals import SIGNALS
from ease_jax.evaluate import passes
from ease_jax.model import readout

MODEL = tiny.stack(readouts=(1, 2, 4))
BATCH = tiny.batch(2, 16)
RULE = ExitRule(SIGNALS[shortlist.NAME], POLICIES['copy_state'])


def test_scores_are_shares_among_the_first_readouts_likeliest_tokens():
  params = tiny.params(MODEL)
  dump = passes.grid_dump(MODEL, params, lambda: [BATCH], (shortlist.NAME,))
  logits_KxBxTxV = np.asarray(tiny.logits(params, BATCH['tokens'], model=MODEL))

  order_BxTxV = np.argsort(-logits_KxBxTxV[0], axis=-1)
  id_BxTxC = order_BxTxV[..., : shortlist.CANDIDATES]
  index_KxBxTxC = np.broadcast_to(id_BxTxC, (3, *id_BxTxC.shape))
  logits_KxBxTxC = np.take_along_axis(logits_KxBxTxV, index_KxBxTxC, -1)
  share_KxBxT = jax.nn.softmax(logits_KxBxTxC).max(-1)

  score_KxBxT = dump.score_KxRxT[shortlist.NAME]
  np.testing.assert_allclose(score_KxBxT, share_KxBxT, 1e-5, 1e-5)
  assert (score_KxBxT >= dump.max_prob_KxRxT - 1e-6)[0].all()
  # Deeper readouts may find another token likelier than all candidates.
  best_BxT = logits_KxBxTxV[-1].argmax(-1)
  assert not (best_BxT[..., None] == id_BxTxC).any(-1).all()


def test_later_readouts_pay_for_the_candidates_alone():
  prices = MODEL.costs(8.0)
  candidates = 2 * MODEL.cfg.dim * shortlist.CANDIDATES
  asked = [prices.asking(RULE, k) for k in range(3)]
  assert asked == [prices.head, candidates, candidates]
  # Somebody answered later pays for one more head, which answers.
  exit_K = prices.exit_K(RULE) - prices.answered_K(RULE.policy)
  np.testing.assert_allclose(
    exit_K, [0, prices.head + candidates, prices.head + candidates]
  )


def test_there_must_be_as_many_tokens():
  signal = shortlist.of('many', tiny.VOCAB + 1)
  with pytest.raises(ConfigError, match=f'looks at {tiny.VOCAB + 1} tokens'):
    MODEL.check(ExitRule(signal, RULE.policy))


@pytest.mark.parametrize(
  'name',
  [name for name, s in SIGNALS.items() if s.gate is None and not s.listed],
)
def test_a_config_may_name_every_signal_that_is_not_learned(name):
  c = config.base()
  c.exit.signals = (name,)
  assert specs.from_config(c).sweep.signals == (name,)  # no vocabulary yet
  assert specs.from_config(c, tiny.VOCAB).sweep.signals == (name,)


def test_it_cannot_draft():
  with pytest.raises(ConfigError, match="signal='shortlist' cannot draft"):
    decode.Draft(0, 2, 0.5, shortlist.NAME)


def test_logits_of_candidates_are_the_same_in_chunks(monkeypatch):
  rng = np.random.default_rng(0)
  h_BxTxD = rng.normal(size=(2, 7, 16)).astype(np.float32)
  w_VxD = rng.normal(size=(tiny.VOCAB, 16)).astype(np.float32)
  id_BxTxC = rng.integers(0, tiny.VOCAB, (2, 7, shortlist.CANDIDATES))
  read = readout.Read(jnp.asarray(h_BxTxD), jnp.asarray(h_BxTxD))
  blank = observations.blank((2, 7))

  def found():
    ids = jnp.asarray(id_BxTxC)
    obs = readout.named(blank, read, ids, jnp.asarray(w_VxD), RULE.signal)
    return obs.named[shortlist.NAME].logit

  expected_BxTxC = np.take_along_axis(h_BxTxD @ w_VxD.T, id_BxTxC, -1)
  np.testing.assert_allclose(found(), expected_BxTxC, 1e-5, 1e-5)
  tiny.chunk(monkeypatch, 5 * 16 * shortlist.CANDIDATES)
  np.testing.assert_allclose(found(), expected_BxTxC, 1e-5, 1e-5)
