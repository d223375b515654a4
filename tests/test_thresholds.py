"""The search for thresholds, against brute force."""

import itertools

import numpy as np
import pytest

from ease_jax.evaluate import thresholds

LAYERS = {2: (1, 2), 3: (1, 2, 4)}


def problem(num_readouts, seed, num=30):
  """Scores that say something about the loss, which falls with depth."""
  rng = np.random.default_rng(seed)
  depth = np.arange(num_readouts)[:, None]
  easy = rng.random(num)

  nll = 2.0 - 1.5 * easy + rng.random((num_readouts, num)) - 0.3 * depth
  score = easy + 0.5 * rng.random((num_readouts, num))
  return score, nll


def cost_fn(active_K):
  """A head costs a fifth of a layer; only active readouts need one."""
  layer_K = np.asarray(LAYERS[len(active_K)])
  active_K = np.asarray(active_K).copy()
  active_K[-1] = True
  return (layer_K + 0.2 * np.cumsum(active_K)) / (layer_K[-1] + 0.2)


def objective(threshold_K, score, nll, price):
  threshold_K = np.asarray(threshold_K, float)
  hit = (score >= threshold_K[:, None]) & (threshold_K[:, None] < np.inf)
  hit[-1] = True
  exit_N = hit.argmax(0)

  nll_N = nll[exit_N, np.arange(nll.shape[1])]
  cost_K = cost_fn(threshold_K < np.inf)
  return (nll_N + price * cost_K[exit_N]).mean()


def search(score, nll, price):
  """The value of the objective, and the thresholds."""
  threshold_K = thresholds.search_thresholds(score, nll, cost_fn, price)
  assert threshold_K.shape == (len(score),)
  assert threshold_K[-1] == np.inf
  return objective(threshold_K, score, nll, price), threshold_K


@pytest.mark.parametrize('price', [0.0, 0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_two_readouts_equal_brute_force(seed, price):
  score, nll = problem(2, seed)
  options = [*score[0], np.inf]
  best = min(objective((t, np.inf), score, nll, price) for t in options)

  value, _ = search(score, nll, price)
  assert value == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize('price', [0.1, 0.3, 0.5, 0.8, 1.5])
@pytest.mark.parametrize('seed', [0, 1, 2, 3, 4, 5])
def test_three_readouts_are_never_worse_than_one_scalar(seed, price):
  score, nll = problem(3, seed)
  options = [*score.reshape(-1), np.inf]
  best = min(objective((t, t, np.inf), score, nll, price) for t in options)

  value, _ = search(score, nll, price)
  assert value <= best + 1e-12


def test_no_single_change_improves_the_result():
  score, nll = problem(3, 7)
  value, threshold_K = search(score, nll, 0.5)
  assert (threshold_K[:-1] < np.inf).any()

  options = [*score.reshape(-1), np.inf]
  for k, threshold in itertools.product(range(2), options):
    changed_K = threshold_K.copy()
    changed_K[k] = threshold
    assert objective(changed_K, score, nll, 0.5) >= value - 1e-12


def test_a_useless_readout_is_pruned():
  score, nll = problem(3, 0)
  nll[0] += 10  # never worth stopping at
  _, threshold_K = search(score, nll, 0.8)
  assert threshold_K[0] == np.inf
  assert threshold_K[1] < np.inf


def test_a_free_pass_needs_no_early_readout():
  score, nll = problem(3, 0)
  nll[:2] = nll[2] + 0.01
  _, threshold_K = search(score, nll, 0.0)
  assert (threshold_K == np.inf).all()


def test_a_high_price_stops_every_token_at_once():
  score, nll = problem(3, 0)
  _, threshold_K = search(score, nll, 100.0)
  assert threshold_K[0] <= score[0].min()
