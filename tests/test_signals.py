import jax
import numpy as np
import pytest

import tiny
from ease_jax.core import observations, signals
from ease_jax.evaluate import passes
from ease_jax.model import readout

LEARNED = ('calm', 'dat', 'dat_multinomial', 'gain', 'q_halt', 'ouro')


def observation(**fields):
  shape = np.shape(next(iter(fields.values())))
  return observations.blank(shape)._replace(**fields)


def test_facts_of_the_signals_follow_from_what_they_look_at():
  able = [name for name, s in signals.SIGNALS.items() if s.can_draft]
  assert able == ['max_prob', 'margin', 'entropy']
  headless = [n for n, s in signals.SIGNALS.items() if not s.needs_head(1)]
  assert set(headless) == {
    'state_cosine',
    'state_change',
    'state_steadiness',
    *LEARNED,
    'frequent',
    'shortlist',
  }
  naming = [name for name in headless if signals.SIGNALS[name].needs_head(0)]
  assert naming == ['shortlist']
  remember = [
    name for name, s in signals.SIGNALS.items() if s.needs_earlier(False)
  ]
  assert remember == [
    'state_steadiness',
    'kl',
    'patience',
    'dat_multinomial',
    'ouro',
    'shortlist',
  ]
  learned = [name for name, s in signals.SIGNALS.items() if s.gate]
  assert learned == list(LEARNED)


def test_patience_counts_consecutive_agreements():
  argmax_KxN = np.asarray(
    [[3, 0, 5, 1], [3, 1, 5, 1], [3, 1, 2, 1], [4, 1, 2, 1]], np.int32
  )
  observations = [observation(argmax=row) for row in argmax_KxN]
  np.testing.assert_array_equal(
    signals.scores(signals.SIGNALS['patience'], observations),
    [[0, 0, 0, 0], [1, 0, 1, 1], [2, 1, 0, 2], [0, 2, 1, 3]],
  )


@pytest.mark.parametrize(
  'name, field, expected',
  [
    ('max_prob', 'max_prob', 0.3),
    ('margin', 'margin', 0.3),
    ('entropy', 'entropy', 0.7),
    ('state_cosine', 'state_cosine', 0.3),
    ('state_change', 'state_change', -0.3),
    ('kl', 'kl', -0.3),
  ],
)
def test_memoryless_signals_read_one_field(name, field, expected):
  observations = [observation(**{field: np.full((2,), 0.3)})] * 2
  score = signals.scores(signals.SIGNALS[name], observations)
  np.testing.assert_allclose(score, np.full((2, 2), expected), rtol=1e-6)


def test_steadiness_is_how_little_the_change_changes():
  changes = np.asarray([[np.inf, np.inf], [0.5, 0.2], [0.4, 0.3]], np.float32)
  observations = [observation(state_change=row) for row in changes]
  score_KxN = signals.scores(signals.SIGNALS['state_steadiness'], observations)
  assert (score_KxN[:2] == -np.inf).all()
  np.testing.assert_allclose(score_KxN[2], [-0.1, -0.1], rtol=1e-5)


@pytest.fixture(scope='module')
def dump():
  # q_halt learns in HRM only.
  model = tiny.hrm(cycles=1, gates=LEARNED, frequent_tokens=5)
  names = tuple(signals.SIGNALS)
  return passes.grid_dump(
    model, tiny.params(model), lambda: [tiny.batch()], names
  )


@pytest.mark.parametrize('name', signals.SIGNALS)
def test_scores_stay_in_the_range_of_the_signal(dump, name):
  signal = signals.SIGNALS[name]
  score_KxRxT = dump.score_KxRxT[name]
  assert score_KxRxT.dtype == np.float32
  empty = {'state_cosine': 1, 'state_change': 1, 'kl': 1, 'state_steadiness': 2}
  first = empty.get(name, 0)  # readout that has all that it compares
  later = score_KxRxT[first:]
  assert np.isfinite(later).all()
  assert later.min() >= signal.low and later.max() <= signal.high
  assert later.min() < later.max()
  # Nothing to compare with: no finite threshold exits before.
  assert (score_KxRxT[:first] == -np.inf).all()


def test_q_halt_is_the_value_of_stopping_over_that_of_going_on():
  q = np.asarray([[1.0, 0.25], [-2.0, 3.0]], np.float32)
  observations = [observation(nll=np.zeros(2), gate={'q_halt': q})]
  score_KxN = signals.scores(signals.SIGNALS['q_halt'], observations)
  np.testing.assert_allclose(score_KxN, [[0.75, -5.0]])


def test_cosine_is_per_token():
  rng = np.random.default_rng(0)
  state, previous = rng.normal(size=(2, 2, 3, 8)).astype(np.float32)
  target = np.zeros((2, 3), np.int32)
  w = np.ones((5, 8), np.float32)

  @jax.jit
  def cosine_of(a, b):
    obs = readout.observe(readout.Read(a, a), readout.Read(b, b), target, w)
    return obs.state_cosine

  def norm(x):
    return np.sqrt((x**2).sum(-1))

  cosine = np.asarray(cosine_of(state, previous))
  expected = (state * previous).sum(-1) / norm(state) / norm(previous)
  np.testing.assert_allclose(cosine, expected, rtol=1e-5, atol=1e-6)

  scaled = state.copy()
  scaled[1, 2] *= 1000
  again = np.asarray(cosine_of(scaled, previous))
  others = np.ones((2, 3), bool)
  others[1, 2] = False
  np.testing.assert_array_equal(again[others], cosine[others])
  np.testing.assert_allclose(again[1, 2], cosine[1, 2], rtol=1e-5)
