"""What the exits of a trace cost, by hand."""

import numpy as np
import pytest

import tiny
from ease_jax.evaluate import compute
from ease_jax.evaluate.traces import Trace

MODEL = tiny.stack(readouts=(1, 2, 4))  # its third layer has no readout
LENGTH = 4
EXIT_RxT = np.asarray([[0, 2, 1, 0], [1, 0, 0, 2]])
MASK_RxT = np.asarray([[1, 1, 1, 1], [1, 1, 1, 0]], np.float32)
POLICIES = ('recompute', 'copy_state', 'drop')
SIGNALS = ('max_prob', 'state_cosine', 'kl', 'patience')

PRICES = MODEL.costs_of_windows(LENGTH)
CELL = PRICES.cell_L[0]


def trace_of(exit_RxT):
  nothing = np.zeros(np.shape(exit_RxT), np.float32)
  return Trace(np.asarray(exit_RxT), nothing, nothing, nothing)


def cost_of(policy, exit_RxT=EXIT_RxT):
  point = tiny.point('max_prob', policy, 0.5)
  return compute.compute(MODEL, point, trace_of(exit_RxT), MASK_RxT)


def share(flops_of_all_tokens):
  """Of a full pass, for each of the seven tokens that are no padding."""
  return pytest.approx(flops_of_all_tokens / 7 / PRICES.full)


# Four tokens stop at the first readout, two at the second, one at the third.
LAYERS = 4 * 1 + 2 * 2 + 1 * 4
HEADS = 4 * 1 + 2 * 2 + 1 * 3
PLAIN = LAYERS * CELL + HEADS * PRICES.head


def test_layers_and_heads_are_counted_up_to_the_exit():
  cost = cost_of('drop')
  assert cost['compute'] == share(PLAIN)
  assert cost['exit_fraction'] == [4 / 7, 2 / 7, 1 / 7]
  assert cost['layer_fraction'] == pytest.approx(LAYERS / 7 / 4)
  assert cost['mean_readout'] == pytest.approx((4 * 1 + 2 * 2 + 1 * 3) / 7)
  assert 'compute_uncharged' not in cost


def test_copied_states_must_fill_the_layers_that_are_left():
  fills = 4 * 3 + 2 * 2
  cost = cost_of('copy_state')
  assert cost['compute'] == share(PLAIN + fills * PRICES.fill_L[0])


def test_recompute_charges_the_layers_that_later_tokens_need():
  # Only the very first token has a later one that goes deeper: to layer 4, so
  # layers 2 and 3 and the keys and values of layer 4. In the second row the
  # deeper one is padding.
  made_up = 2 * CELL + PRICES.fill_L[0]
  cost = cost_of('recompute')
  assert cost['compute_uncharged'] == share(PLAIN)
  assert cost['compute'] == share(PLAIN + made_up)


@pytest.mark.parametrize('policy', POLICIES)
def test_padding_is_in_no_exit_statistic(policy):
  costs = []
  for stop in (0, 1, 2):
    exit_RxT = EXIT_RxT.copy()
    exit_RxT[1, 3] = stop
    costs.append(cost_of(policy, exit_RxT))
  assert costs[0] == costs[1] == costs[2]


def test_exits_off_cost_exactly_one_full_pass():
  last_RxT = np.full(EXIT_RxT.shape, 2)
  never = [
    tiny.point(signal, policy, np.inf)
    for signal in SIGNALS
    for policy in POLICIES
  ]
  for point in (None, *never):
    cost = compute.compute(MODEL, point, trace_of(last_RxT), MASK_RxT)
    assert cost['compute'] == 1
    assert cost['layer_fraction'] == 1
    assert cost['mean_readout'] == 3
