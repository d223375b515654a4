import jax
import numpy as np
import pytest

import tiny
from ease_jax import config
from ease_jax.core import signals
from ease_jax.evaluate import passes
from ease_jax.model import readout


def observation(**fields):
  shape = np.shape(next(iter(fields.values())))
  empty = dict.fromkeys(signals.Observation._fields, np.zeros(shape))
  return signals.Observation(**(empty | fields))


def test_every_signal_has_a_range_in_the_config():
  assert set(signals.SIGNALS) == set(config.SIGNAL_RANGES)


def test_patience_counts_consecutive_agreements():
  argmax_KxN = np.asarray(
    [[3, 0, 5, 1], [3, 1, 5, 1], [3, 1, 2, 1], [4, 1, 2, 1]], np.int32
  )
  observations = [observation(argmax=row) for row in argmax_KxN]
  np.testing.assert_array_equal(
    signals.scores('patience', observations),
    [[0, 0, 0, 0], [1, 0, 1, 1], [2, 1, 0, 2], [0, 2, 1, 3]],
  )


@pytest.mark.parametrize(
  'name, field, expected',
  [
    ('max_prob', 'max_prob', 0.3),
    ('margin', 'margin', 0.3),
    ('entropy', 'entropy', 0.7),
    ('state_cosine', 'state_cosine', 0.3),
    ('kl', 'kl', -0.3),
    ('q_halt', 'halt', 0.3),
  ],
)
def test_memoryless_signals_read_one_field(name, field, expected):
  observations = [observation(**{field: np.full((2,), 0.3)})] * 2
  score = signals.scores(name, observations)
  np.testing.assert_allclose(score, np.full((2, 2), expected), rtol=1e-6)


@pytest.fixture(scope='module')
def dump():
  model = tiny.body(  # the one body that knows them all
    body='hrm', num_layers=1, segments=4, block_norm='post', carry_init='fixed'
  )
  names = tuple(signals.SIGNALS)
  return passes.grid_dump(
    model, tiny.params(model), lambda: [tiny.batch()], names
  )


@pytest.mark.parametrize('name', signals.SIGNALS)
def test_scores_stay_in_the_range_of_the_config(dump, name):
  low, high = config.SIGNAL_RANGES[name]
  score_KxRxT = dump.score_KxRxT[name]
  assert score_KxRxT.dtype == np.float32
  later = score_KxRxT[1:]
  assert np.isfinite(later).all()
  assert later.min() >= low and later.max() <= high
  assert later.min() < later.max()
  if name in ('state_cosine', 'kl'):
    # Nothing to compare with: no finite threshold exits at readout 1.
    assert (score_KxRxT[0] == -np.inf).all()


def test_cosine_is_per_token():
  rng = np.random.default_rng(0)
  state, previous = rng.normal(size=(2, 2, 3, 8)).astype(np.float32)
  target, w = np.zeros((2, 3), np.int32), np.ones((5, 8), np.float32)
  observe = jax.jit(
    lambda a, b: readout.observe((a, a), (b, b), target, w).state_cosine
  )
  cosine = np.asarray(observe(state, previous))
  norm = lambda x: np.sqrt((x**2).sum(-1))
  expected = (state * previous).sum(-1) / norm(state) / norm(previous)
  np.testing.assert_allclose(cosine, expected, rtol=1e-5, atol=1e-6)
  scaled = state.copy()
  scaled[1, 2] *= 1000
  again = np.asarray(observe(scaled, previous))
  others = np.ones((2, 3), bool)
  others[1, 2] = False
  np.testing.assert_array_equal(again[others], cosine[others])
  np.testing.assert_allclose(again[1, 2], cosine[1, 2], rtol=1e-5)
