"""The clairvoyant frontier: by brute force, and below what sees less."""

import itertools
import types

import jax.numpy as jnp
import numpy as np
import pytest
import sweeps

import tiny
from ease_jax.core.grid import first_exit
from ease_jax.core.policies import OperatingPoint
from ease_jax.core.signals import SIGNALS
from ease_jax.evaluate import clairvoyant, compute, traces
from ease_jax.evaluate.sweep import Evaluator

# Three readouts, one row of three tokens.
NLL_KxRxT = np.asarray(
  [[[3.0, 0.5, 2.0]], [[1.0, 0.6, 2.5]], [[0.9, 0.4, 0.1]]]
)
COST_K = np.asarray([0.3, 0.6, 1.0])
COST_KxRxT = np.broadcast_to(COST_K[:, None, None], NLL_KxRxT.shape)
DUMP = types.SimpleNamespace(nll_KxRxT=NLL_KxRxT, mask_RxT=np.ones((1, 3)))


def value(exit_T, price):
  """Loss plus price times cost of three tokens."""
  nll = sum(NLL_KxRxT[k, 0, t] for t, k in enumerate(exit_T))
  return nll + price * sum(COST_K[k] for k in exit_T)


@pytest.mark.parametrize('price', np.linspace(0, 7, 40))
def test_three_tokens_by_brute_force(price):
  tokens = itertools.product(range(3), repeat=3)
  best = min(tokens, key=lambda exit_T: value(exit_T, price))
  got = clairvoyant.exits(DUMP, COST_KxRxT, price, 'token')
  assert tuple(got[0]) == best


def test_a_sequence_is_answered_as_one():
  (best,) = min(((k,) for k in range(3)), key=lambda k: value(k * 3, price=1.0))
  got = clairvoyant.exits(DUMP, COST_KxRxT, 1.0, 'sequence')
  assert got.tolist() == [[best] * 3]


@pytest.fixture(scope='module', params=['copy_state', 'drop', 'recompute'])
def split(request):
  """A split of a model, and the frontier that is charged a policy."""
  policy = request.param
  model = tiny.stack()
  spec = sweeps.spec(policies=('copy_state', 'drop', 'recompute'))
  task = sweeps.task(test=400)
  split = Evaluator('report', spec, model, tiny.params(model), task)
  return split, policy, list(clairvoyant.frontier(split, policy))


def on_true_states(split, point):
  """Loss and compute of a point whose exits change no deeper state."""
  score_KxRxT = jnp.asarray(split.dump.score_KxRxT[point.signal])
  threshold_K = point.threshold_K(len(score_KxRxT))
  exit_RxT = np.asarray(first_exit(score_KxRxT, threshold_K))
  trace = traces.trace_from_dump(split.dump, exit_RxT)
  cost = compute.compute(split.model, point, trace, split.dump.mask_RxT)
  nll = split.quality(trace.nll_RxT, trace.correct_RxT).nll
  return nll, cost['compute']


def test_no_point_of_the_sweep_lies_below(split):
  split, policy, frontier = split
  never = np.inf
  thresholds = [0.0, 0.3, 0.5, 0.9, never]
  thresholds += [(0.4, never, 0.5, 1.0), (never, 0.3, never, 1.0)]
  assert SIGNALS['max_prob'].needs_head(0)
  for threshold in thresholds:
    point = OperatingPoint('max_prob', policy, threshold)
    nll, spent = on_true_states(split, point)
    for row in frontier:
      lowest = row.quality.nll + row.price * row.cost.compute
      assert nll + row.price * spent >= lowest - 1e-6


def test_nothing_is_asked_and_everything_else_is_charged(split):
  split, policy, _ = split
  prices = split.model.costs_of_windows(sweeps.LENGTH)
  fills = 1 if policy == 'copy_state' else 0
  expected = [
    (layers * prices.cell_L[0] + prices.head)
    + fills * (4 - layers) * prices.fill_L[0]
    for layers in (1, 2, 3, 4)
  ]
  cost_KxRxT = clairvoyant.costs(split.model, policy, split.dump)
  np.testing.assert_allclose(
    cost_KxRxT[:, 0, 0], np.asarray(expected) / prices.full
  )


def test_each_point_is_the_best_at_its_own_price(split):
  _, _, frontier = split
  for row in frontier:
    values = [
      other.quality.nll + row.price * other.cost.compute for other in frontier
    ]
    assert values[frontier.index(row)] <= min(values) + 1e-6


def test_it_runs_from_the_lowest_loss_to_the_lowest_cost(split):
  split, policy, frontier = split
  nll = [row.quality.nll for row in frontier]
  spent = [row.cost.compute for row in frontier]
  assert nll == sorted(nll)
  assert spent == sorted(spent, reverse=True)
  assert len(set(zip(nll, spent))) == len(frontier) > 10

  dump = split.dump
  mask = dump.mask_RxT > 0
  assert nll[0] == pytest.approx(dump.nll_KxRxT.min(0)[mask].mean())
  assert frontier[-1].cost.exit_fraction[0] == 1
  # An exit without questions, and what the policy makes for deeper layers.
  fills = 3 if policy == 'copy_state' else 0
  prices = split.model.costs_of_windows(sweeps.LENGTH)
  cheapest = prices.cell_L[0] + prices.head + fills * prices.fill_L[0]
  assert spent[-1] == pytest.approx(cheapest / prices.full)
