import math
import types

import numpy as np
import pytest

import tiny
from ease_jax import config, validation
from ease_jax.data import eval_batches
from ease_jax.evaluate import passes
from ease_jax.model.exits import ExitSpec

MODEL = tiny.stack(num_layers=2)
PARAMS = tiny.params(MODEL)
TOKENS = np.random.default_rng(0).integers(0, tiny.VOCAB, 51).astype(np.int32)
TOKEN_BYTES = np.arange(1, tiny.VOCAB + 1)
LENGTH = 8


def read(batch_size):
  """Dump of all 50 targets: rows of 8, the last one with 2."""
  batches = lambda: eval_batches(TOKENS, LENGTH, batch_size)
  return passes.grid_dump(MODEL, PARAMS, batches, ('max_prob',)), batches


@pytest.fixture(scope='module')
def dump():
  return read(4)[0]


def naive_nll():
  """Loss of every target at the last readout, window by window."""
  window = np.pad(TOKENS[:-1], (0, 6)).reshape(7, LENGTH)
  logits = MODEL.apply({'params': PARAMS}, window)[-1]
  logits = np.asarray(logits, np.float64).reshape(56, -1)[:50]
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  return -log_p[np.arange(50), TOKENS[1:]]


def last_quality(dump):
  return passes.quality(
    dump.nll_KxRxT[-1], dump.correct_KxRxT[-1], dump, TOKEN_BYTES
  )


def test_every_target_is_scored_once(dump):
  assert dump.mask_RxT.sum() == 50
  nll = dump.nll_KxRxT[-1][dump.mask_RxT > 0]
  np.testing.assert_allclose(nll, naive_nll(), rtol=1e-5, atol=1e-5)


def test_perplexity_is_exp_of_the_total_over_the_number_of_tokens(dump):
  total = naive_nll().sum()
  got = last_quality(dump)
  assert got['nll'] == pytest.approx(total / 50, rel=1e-6)
  assert got['ppl'] == math.exp(got['nll'])
  num_bytes = TOKEN_BYTES[TOKENS[1:]].sum()
  assert got['bits_per_byte'] == pytest.approx(
    total / math.log(2) / num_bytes, rel=1e-6
  )
  # Not the mean of the batches' perplexities.
  assert got['ppl'] != pytest.approx(np.exp(naive_nll()).mean(), rel=0.01)


def test_quality_by_hand():
  dump = types.SimpleNamespace(
    mask_RxT=np.asarray([[1, 1, 0], [1, 0, 0]]),
    target_RxT=np.asarray([[0, 1, 2], [2, 0, 0]]),
  )
  nll = np.asarray([[1.0, 2.0, 50.0], [3.0, 50.0, 50.0]])
  correct = np.asarray([[True, False, True], [False, True, True]])
  got = passes.quality(nll, correct, dump, np.asarray([1, 2, 3]))
  assert got == {
    'nll': 2.0,
    'ppl': math.exp(2),
    'bits_per_byte': pytest.approx(6 / math.log(2) / 6),
    'accuracy': pytest.approx(1 / 3),
  }


@pytest.mark.parametrize('batch_size', [1, 7])
def test_batch_size_and_a_ragged_last_batch_change_nothing(dump, batch_size):
  other, batches = read(batch_size)
  assert last_quality(other) == pytest.approx(last_quality(dump), rel=1e-6)
  assert passes.last_nll(MODEL, PARAMS, batches()) == pytest.approx(
    last_quality(dump)['nll'], rel=1e-6
  )
  spec, threshold_K = ExitSpec('max_prob', 'recompute'), np.asarray([0.5, 1.0])
  points = []
  for d in (dump, other):
    trace = passes.trace(MODEL, PARAMS, batches, d, spec, threshold_K)
    points.append(
      passes.compute(MODEL.cfg, spec, threshold_K, trace, d.mask_RxT)
    )
  assert points[0] == points[1]
  assert 0 < points[0]['exit_fraction'][0] < 1


def test_padding_has_no_influence(dump):
  hidden = dump.mask_RxT == 0
  nll, correct = dump.nll_KxRxT[-1].copy(), dump.correct_KxRxT[-1].copy()
  nll[hidden], correct[hidden] = np.inf, True
  assert passes.quality(nll, correct, dump, TOKEN_BYTES) == last_quality(dump)


def test_thresholds_are_not_reported_where_they_were_chosen():
  c = config.base()
  for split in config.SPLITS:
    c.evaluate.select_split = c.evaluate.report_split = split
    with pytest.raises(config.ConfigError, match='use two splits'):
      validation.validate(c)


def test_calibration_by_hand():
  # Five bins; the last token is padding, a confidence of 1 is in the last.
  confidence = np.asarray([[0.1, 0.15, 0.5, 0.55, 1.0, 0.9]])
  correct = np.asarray([[False, True, True, True, True, False]])
  dump = types.SimpleNamespace(
    mask_RxT=np.asarray([[1, 1, 1, 1, 1, 0]]),
    max_prob_KxRxT=confidence[None],
    correct_KxRxT=correct[None],
  )
  got = passes.calibration(dump, 0, num_bins=5)
  approx = pytest.approx
  assert got['bins'] == [
    {'confidence': approx(0.125), 'accuracy': 0.5, 'count': 2},
    {'confidence': approx(0.525), 'accuracy': 1.0, 'count': 2},
    {'confidence': approx(1.0), 'accuracy': 1.0, 'count': 1},
  ]
  assert got['ece'] == approx((2 * 0.375 + 2 * 0.475) / 5)
