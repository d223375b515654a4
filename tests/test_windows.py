"""Intervals over windows: by hand, against theory, always the same."""

import numpy as np
import pytest

from ease_jax.evaluate import windows
from ease_jax.evaluate.windows import Interval, Sums, Windows

NUM = 120
TOKENS = tuple([10] * NUM)


def sums(nll_W, flops=1.0):
  return Sums(tuple(np.asarray(nll_W) * 10), (flops * 10,) * NUM)


def made_up():
  """A setting, and one that is worse by 0.1 nats in every stretch."""
  rng = np.random.default_rng(1)
  nll_W = 1 + 0.3 * rng.normal(size=NUM)
  base = sums(nll_W)
  worse = sums(nll_W + 0.1)
  return nll_W, base, worse, Windows('test', 2.0, TOKENS, (base,), (worse,))


def test_the_spread_of_a_mean_is_that_of_theory():
  nll_W, base, _, table = made_up()
  interval = table.ppl(base)
  half = 1.96 * nll_W.std() / np.sqrt(NUM)
  low, high = np.log([interval.low, interval.high])
  assert (low + high) / 2 == pytest.approx(nll_W.mean(), abs=0.1 * half)
  assert (high - low) / 2 == pytest.approx(half, rel=0.1)


def test_two_settings_are_compared_on_the_same_draws():
  _, base, worse, table = made_up()
  ratio = table.ppl_ratio(worse, base)
  assert ratio.low == pytest.approx(np.exp(0.1))
  assert ratio.high == pytest.approx(np.exp(0.1))
  own = table.ppl_ratio(base, base)
  assert own == Interval(1.0, 1.0)


def test_compute_is_relative_to_a_full_pass():
  _, base, _, table = made_up()
  assert table.compute(base) == Interval(0.5, 0.5)


def test_stretches_of_different_length_count_by_their_tokens():
  drawn_BxW = np.asarray([[1.0, 1.0], [2.0, 0.0]])
  got = windows.per_token(drawn_BxW, np.asarray([2.0, 9.0]), np.asarray([2, 3]))
  np.testing.assert_allclose(got, [11 / 5, 1])


def test_draws_are_the_same_for_everybody_and_as_many_as_there_are():
  drawn_BxW = windows.draws(7)
  np.testing.assert_array_equal(drawn_BxW, windows.draws(7))
  np.testing.assert_array_equal(drawn_BxW.sum(1), 7)


def test_neighbouring_windows_are_one_stretch_and_padding_is_none():
  rows = 2 * windows.STRETCHES
  x_RxT = np.repeat(np.arange(rows + 1.0)[:, None], 3, 1)
  mask_RxT = np.ones_like(x_RxT)
  mask_RxT[0, 2] = 0
  mask_RxT[-1] = 0  # a row that fills the last batch
  sum_W = windows.in_stretches(x_RxT, mask_RxT)
  assert len(sum_W) == windows.STRETCHES
  np.testing.assert_array_equal(sum_W[:2], [3 * 1, 3 * (2 + 3)])


def test_what_an_interval_excludes():
  assert Interval(0.1, 0.2).excludes(0)
  assert not Interval(-0.1, 0.2).excludes(0)
