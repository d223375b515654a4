import types

import numpy as np
import pytest

import tiny
from ease_jax.core.policies import OperatingPoint
from ease_jax.data import eval_batches
from ease_jax.evaluate import compute, passes, traces

MODEL = tiny.stack(num_layers=2)
PARAMS = tiny.params(MODEL)
TOKENS = np.random.default_rng(0).integers(0, tiny.VOCAB, 51).astype(np.int32)
LENGTH = 8


def read(batch_size):
  """Dump of all 50 targets: rows of 8, the last one with 2."""

  def batches():
    return eval_batches(TOKENS, LENGTH, batch_size)

  return passes.grid_dump(MODEL, PARAMS, batches, ('max_prob',)), batches


@pytest.fixture(scope='module')
def dump():
  return read(4)[0]


def naive_nll():
  """Loss of every target at the last readout, window by window."""
  window = np.pad(TOKENS[:-1], (0, 6)).reshape(7, LENGTH)
  logits = tiny.logits(PARAMS, window, model=MODEL)[-1]
  logits = np.asarray(logits, np.float64).reshape(56, -1)[:50]
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  return -log_p[np.arange(50), TOKENS[1:]]


def last_nll(dump):
  mask = dump.mask_RxT > 0
  return float(dump.nll_KxRxT[-1][mask].mean(dtype=np.float64))


def test_every_target_is_scored_once(dump):
  assert dump.mask_RxT.sum() == 50
  nll = dump.nll_KxRxT[-1][dump.mask_RxT > 0]
  np.testing.assert_allclose(nll, naive_nll(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('batch_size', [1, 7])
def test_batch_size_and_a_ragged_last_batch_change_nothing(dump, batch_size):
  other, batches = read(batch_size)
  assert last_nll(other) == pytest.approx(last_nll(dump), rel=1e-6)
  mean = passes.last_nll(MODEL, PARAMS, batches())
  assert mean == pytest.approx(last_nll(dump), rel=1e-6)

  point = OperatingPoint('max_prob', 'recompute', (0.5, 1.0))
  rows = []
  for d in (dump, other):
    trace = traces.trace(MODEL, PARAMS, batches, d, point)
    rows.append(compute.compute(MODEL, point, trace, d.mask_RxT))
  assert rows[0] == rows[1]
  assert 0 < rows[0]['exit_fraction'][0] < 1
  assert rows[0]['compute_uncharged'] <= rows[0]['compute']


def test_exits_off_cost_one_full_pass(dump):
  trace = traces.trace(MODEL, PARAMS, list, dump, None)
  row = compute.compute(MODEL, None, trace, dump.mask_RxT)
  assert row['compute'] == 1
  assert row['layer_fraction'] == 1
  assert row['exit_fraction'] == [0, 1]
  assert 'compute_uncharged' not in row


def test_calibration_by_hand():
  # Five bins; the last token is padding, a confidence of 1 is in the last.
  confidence = np.asarray([[0.1, 0.15, 0.5, 0.55, 1.0, 0.9]])
  correct = np.asarray([[False, True, True, True, True, False]])
  dump = types.SimpleNamespace(
    mask_RxT=np.asarray([[1, 1, 1, 1, 1, 0]]),
    max_prob_KxRxT=confidence[None],
    correct_KxRxT=correct[None],
  )
  got = compute.calibration(dump, 0, num_bins=5)
  approx = pytest.approx
  assert got['bins'] == [
    {'confidence': approx(0.125), 'accuracy': 0.5, 'count': 2},
    {'confidence': approx(0.525), 'accuracy': 1.0, 'count': 2},
    {'confidence': approx(1.0), 'accuracy': 1.0, 'count': 1},
  ]
  assert got['ece'] == approx((2 * 0.375 + 2 * 0.475) / 5)
