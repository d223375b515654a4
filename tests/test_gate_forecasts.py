"""What gates foretell, beside plain loops, and how often it happens."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from test_gate_losses import DEPTH_K, LENGTH, ROWS, lesson_of, sigmoid

import tiny
from ease_jax.core import ouro, signals
from ease_jax.core.gating import GateSpec
from ease_jax.evaluate import gates, passes, reliability


def by_hand(lesson):
  """(forecast, event, asked) of each gate, [K, B, T]; the last K is ignored."""
  output_KxBxT = np.asarray(lesson.output_KxBxTxO[..., 0])
  plan_BxTxK = scipy.special.softmax(np.asarray(lesson.output_KxBxTxO[0]), -1)
  nll_KxBxT = np.asarray(lesson.nll_KxBxT)
  argmax_KxBxT = np.asarray(lesson.argmax_KxBxT)
  best_BxT = (nll_KxBxT + 0.1 * np.asarray(DEPTH_K)[:, None, None]).argmin(0)
  left_K = np.asarray([0.75, 0.5, 0.0])
  gained_KxBxT = np.maximum(-np.diff(nll_KxBxT, axis=0), 0)
  everywhere = np.ones(nll_KxBxT.shape, bool)
  number_KxBxT = np.cumsum(everywhere, 0) - 1
  p_KxBxT = sigmoid(output_KxBxT)
  return {
    'calm': (p_KxBxT, argmax_KxBxT == argmax_KxBxT[-1], everywhere),
    'dat': (p_KxBxT, best_BxT == number_KxBxT, best_BxT >= number_KxBxT),
    'dat_multinomial': (
      np.cumsum(np.moveaxis(plan_BxTxK, -1, 0), 0),
      best_BxT <= number_KxBxT,
      everywhere,
    ),
    'gain': (
      left_K[:, None, None] * np.exp(output_KxBxT),
      nll_KxBxT - nll_KxBxT[-1],
      everywhere,
    ),
    'ouro': (
      1 - p_KxBxT,
      sigmoid(50 * (np.pad(gained_KxBxT, ((1, 0), (0, 0), (0, 0))) - 0.005)),
      number_KxBxT > 0,
    ),
    'q_halt': (
      p_KxBxT,
      argmax_KxBxT == np.asarray(lesson.target_BxT),
      everywhere,
    ),
  }


@pytest.mark.parametrize(
  'name', ['calm', 'dat', 'dat_multinomial', 'gain', 'ouro', 'q_halt']
)
def test_what_gates_foretell_and_what_happens(name):
  lesson = lesson_of(gate_objective='improvement')
  rng = np.random.default_rng(5)
  outputs = rng.normal(size=(len(DEPTH_K), ROWS, LENGTH, len(DEPTH_K)))
  lesson = lesson._replace(output_KxBxTxO=jnp.asarray(outputs, jnp.float32))
  foretold = signals.SIGNALS[name].gate.foretells(lesson)
  *expected, asked_KxBxT = by_hand(lesson)[name]
  np.testing.assert_array_equal(foretold.asked_KxBxT, asked_KxBxT)
  for got, value in zip(foretold[1:3], expected):
    np.testing.assert_allclose(
      np.asarray(got)[asked_KxBxT], value[asked_KxBxT], 1e-4, 1e-5
    )


def test_a_mean_loss_is_no_forecast():
  assert ouro.foretold(lesson_of(gate_objective='expected_loss')) is None


def test_forecasts_are_counted_where_they_were_asked_for():
  """Rows of a dump, by hand: padding and readouts out of reach are left out."""
  lesson = lesson_of(
    mask_BxT=jnp.ones((ROWS, LENGTH)).at[1:].set(0.0), gate_price=0.0
  )
  nothing = np.zeros(0)
  dump = passes.Dump(
    nll_KxRxT=np.asarray(lesson.nll_KxBxT),
    argmax_KxRxT=np.asarray(lesson.argmax_KxBxT),
    correct_KxRxT=nothing,
    max_prob_KxRxT=nothing,
    score_KxRxT={},
    output_KxRxTxO={'dat': np.asarray(lesson.output_KxBxTxO)},
    mask_RxT=np.asarray(lesson.mask_BxT),
    target_RxT=np.asarray(lesson.target_BxT),
  )
  grid = tiny.stack(readouts=DEPTH_K).grid
  spec = GateSpec(('dat',), gate_weight=0.5, gate_price=0.1)
  rows = gates.gate_rows(grid, spec, dump)

  forecast, event, asked = by_hand(lesson)['dat']
  assert [(row.segment, row.layer) for row in rows] == [(1, 1), (1, 2)]
  for k, row in enumerate(rows):
    counts = asked[k] & (np.arange(ROWS) == 0)[:, None]
    order_N = np.argsort(forecast[k][counts], kind='stable')
    groups = np.array_split(order_N, min(10, len(order_N)))
    errors = []
    for group, part in zip(groups, row.bins, strict=True):
      foretold = forecast[k][counts][group].mean()
      happened = event[k][counts][group].mean()
      assert part.foretold == pytest.approx(foretold, rel=1e-4)
      assert part.happened == pytest.approx(happened)
      assert part.count == len(group)
      errors.append(abs(foretold - happened) * len(group))
    assert row.error == pytest.approx(sum(errors) / counts.sum(), rel=1e-4)


def test_reliability_by_hand():
  foretold_N = np.repeat([0.9, 0.1], 10)
  happened_N = np.asarray([1] * 8 + [0] * 2 + [0] * 9 + [1])
  error, bins = reliability.reliability(foretold_N, happened_N)
  assert [part.count for part in bins] == [2] * 10
  assert [part.foretold for part in bins] == pytest.approx(
    [0.1] * 5 + [0.9] * 5
  )
  assert [part.happened for part in bins] == [0, 0, 0, 0, 0.5, 1, 1, 1, 1, 0]
  # Four pairs are 0.1 off and one 0.4; then four 0.1 and one 0.9.
  assert error == pytest.approx((8 * 0.1 + 0.4 + 0.9) / 10)
