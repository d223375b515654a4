"""Intervals over seeds and windows, against what theory says."""

import numpy as np
import pytest
import scipy.stats

from ease_jax.study import uncertainty


def test_seeds_alone_are_a_paired_t_test():
  value_S = np.asarray([0.1, 0.3, 0.2])
  got = uncertainty.combined(value_S, np.full(100, 0.2), 50)
  test = scipy.stats.ttest_1samp(value_S, 0).confidence_interval(0.95)
  assert (got.low, got.high) == (
    pytest.approx(test.low),
    pytest.approx(test.high),
  )


def test_windows_alone_are_a_mean_over_windows():
  rng = np.random.default_rng(0)
  sum_1xW = rng.normal(5.0, 1.0, (1, 100))
  got = uncertainty.of_mean(sum_1xW, np.full(100, 10))
  half = scipy.stats.t.ppf(0.975, 99) * sum_1xW.std() / 10 / 10
  assert (got.high - got.low) / 2 == pytest.approx(half, rel=0.1)
  assert (got.high + got.low) / 2 == pytest.approx(sum_1xW.mean() / 10)


def test_it_covers_what_it_promises():
  """Seeds and windows drawn anew: the truth is 0 in 95 % of the intervals."""
  rng = np.random.default_rng(1)
  hits = 0
  rounds = 200
  for _ in range(rounds):
    of_seed_Sx1 = rng.normal(0, 0.2, (3, 1))
    of_window_1xW = rng.normal(0, 1.0, (1, 40))
    rest_SxW = rng.normal(0, 0.5, (3, 40))
    sum_SxW = of_seed_Sx1 + of_window_1xW + rest_SxW
    hits += not uncertainty.of_mean(sum_SxW, np.ones(40)).excludes(0)
  assert 0.91 <= hits / rounds <= 1.0


def test_nothing_varies():
  got = uncertainty.of_mean(np.full((3, 4), 2.0), np.full(4, 2))
  assert (got.low, got.high) == (1, 1)
