"""R19: what is certified holds, as often as it says.

Losses are drawn from distributions whose means are known.
"""

import math

import numpy as np
import pytest
import scipy.stats

from ease_jax.evaluate import guarantee
from ease_jax.evaluate.guarantee import METHODS

DRAWS = 1000
DELTA = 0.1
LIMIT = 0.1
UNITS = 150
MEANS = (0.02, 0.05, 0.08, 0.095, 0.102, 0.12, 0.16)  # safest first
NOT_MONOTONE = (0.02, 0.09, 0.102, 0.04, 0.12, 0.03)
# What 1,000 draws of a share of delta may come to, once in 10,000 times.
MOST = scipy.stats.binom.isf(1e-4, DRAWS, DELTA) / DRAWS


def share_of_tokens(mean, common_N):
  """Disagreement: most documents lose little, some nearly everything."""
  return common_N ** (1 / mean - 1)


def all_or_nothing(mean, common_N):
  """The highest variance that a mean allows."""
  return (common_N < mean).astype(float)


def nats(mean, common_N):
  """Rise of the loss: most documents lose little, some gain."""
  noise_N = scipy.stats.norm.ppf(common_N)
  return np.minimum(mean + 0.05 * noise_N, 1.0)


LOSSES = {f.__name__: f for f in (share_of_tokens, all_or_nothing, nats)}


def draw(rng, loss, means, num=UNITS):
  """Losses [J, N]: a hard document is hard at every threshold."""
  common_N = rng.uniform(size=num)
  return np.stack([loss(mean, common_N) for mean in means])


def risks_of(method, loss, means):
  """True mean at the last certified threshold, one for each draw."""
  rng = np.random.default_rng(1)
  found = []
  for _ in range(DRAWS):
    loss_JxN = draw(rng, loss, means)
    num = guarantee.certified(loss_JxN, LIMIT, DELTA, method)
    found.append(([0.0, *means])[num])
  return np.array(found)


@pytest.mark.parametrize('means', [MEANS, NOT_MONOTONE], ids=['up', 'both'])
@pytest.mark.parametrize('loss', LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize('name', guarantee.PROBABLE)
def test_violations_are_at_most_delta(name, loss, means):
  risk_D = risks_of(METHODS[name], loss, means)
  assert (risk_D > LIMIT).mean() <= MOST
  assert (risk_D > 0).mean() > 0.3  # it is no bound that certifies nothing


@pytest.mark.parametrize('loss', LOSSES.values(), ids=LOSSES)
def test_the_mean_without_a_bound_violates(loss):
  """The control: what these draws do to a method that corrects nothing."""

  def plug_in(loss_N, limit, delta):
    return loss_N.mean() <= limit

  risk_D = risks_of(guarantee.Method(plug_in), loss, MEANS)
  assert (risk_D > LIMIT).mean() > MOST


@pytest.mark.parametrize('means', [MEANS, NOT_MONOTONE], ids=['up', 'both'])
@pytest.mark.parametrize('loss', LOSSES.values(), ids=LOSSES)
def test_conformal_risk_control_holds_in_expectation(loss, means):
  risk_D = risks_of(METHODS['conformal'], loss, means)
  error = risk_D.std() / math.sqrt(DRAWS)
  assert risk_D.mean() <= LIMIT + 4 * error
  assert risk_D.mean() > 0.3 * LIMIT


def test_conformal_takes_the_worst_of_each_unit():
  # Whoever takes the worst mean instead certifies the second threshold here.
  loss_JxN = np.array([[0.6, 0.0], [0.0, 0.6]])
  worst = guarantee.worst_so_far(loss_JxN)
  np.testing.assert_array_equal(worst, [[0.6, 0.0], [0.6, 0.6]])
  assert guarantee.worst_so_far(np.array([[-0.5]])) == 0  # of full depth


def test_p_values_are_those_of_the_formulas():
  # n=100, limit .1, mean .0495: by hand; 4.95 losses count as 5.
  log_ratio = 0.0495 * math.log(0.495) + 0.9505 * math.log(0.9505 / 0.9)
  hoeffding = math.exp(-100 * log_ratio)
  bentkus = math.e * sum(
    math.comb(100, k) * 0.1**k * 0.9 ** (100 - k) for k in range(6)
  )
  p = guarantee.hoeffding_bentkus(0.0495, 100, 0.1)
  assert p == pytest.approx(min(hoeffding, bentkus))
  assert bentkus < hoeffding
  # Without any loss Hoeffding's is the lower one.
  assert guarantee.hoeffding_bentkus(0.0, 20, 0.1) == pytest.approx(0.9**20)
  assert guarantee.hoeffding_bentkus(0.1, 20, 0.1) == 1
  assert guarantee.hoeffding_bentkus(0.7, 20, 0.1) == 1


def test_capital_is_that_of_bets_one_by_one():
  loss_N = [0.0, 0.3, -0.2, 0.05]
  mean, variance, log_capital, best = 0.5, 0.25, 0.0, -math.inf
  seen = []
  square = 0.25
  for x in loss_N:
    bet = min(1.0, math.sqrt(2 * math.log(10) / (4 * variance)))
    log_capital += math.log(1 - bet * (x - 0.2))
    best = max(best, log_capital)
    seen.append(x)
    mean = (0.5 + sum(seen)) / (len(seen) + 1)
    square += (x - mean) ** 2
    variance = square / (len(seen) + 1)
  found = guarantee.capital(np.array(loss_N), 0.2, 0.1)
  assert found == pytest.approx(best)


def test_bets_are_tighter_where_losses_vary_little():
  rng = np.random.default_rng(0)
  loss_N = np.clip(rng.normal(0.3, 0.02, 200), 0, 1)
  betting = guarantee.upper_bound(loss_N, DELTA, METHODS['betting'])
  bentkus = guarantee.upper_bound(loss_N, DELTA, METHODS['hoeffding_bentkus'])
  hoeffding = loss_N.mean() + math.sqrt(math.log(1 / DELTA) / 400)
  assert loss_N.mean() < betting < bentkus - 0.02
  assert bentkus < hoeffding + 0.005


@pytest.mark.parametrize('method', METHODS.values(), ids=METHODS)
def test_the_last_certified_threshold_is_itself_certified(method):
  rng = np.random.default_rng(0)
  loss_JxN = draw(rng, share_of_tokens, np.linspace(0.01, 0.2, 30))
  num = guarantee.certified(loss_JxN, LIMIT, DELTA, method)
  assert 0 < num < 30
  tested = guarantee.tested(loss_JxN, method)
  bounds = [guarantee.upper_bound(row, DELTA, method) for row in tested]
  assert max(bounds[:num]) <= LIMIT < bounds[num]


@pytest.mark.parametrize('method', METHODS.values(), ids=METHODS)
def test_what_comes_after_a_failure_is_not_certified(method):
  good = np.zeros(300)
  bad = np.full(300, 0.5)
  loss_JxN = np.stack([good, bad, good])
  assert guarantee.certified(loss_JxN, LIMIT, DELTA, method) == 1


@pytest.mark.parametrize('method', METHODS.values(), ids=METHODS)
@pytest.mark.parametrize('limit', [0.3, 0.1, 0.003])
def test_least_units_is_where_too_little_data_ends(method, limit):
  least = guarantee.least_units(limit, DELTA, method)
  assert least is not None and least > 1
  none = np.zeros((1, least))
  assert guarantee.certified(none, limit, DELTA, method) == 1
  assert guarantee.certified(none[:, 1:], limit, DELTA, method) == 0
  assert guarantee.least_units(1e-9, DELTA, method) is None
