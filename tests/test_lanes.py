"""What runs begin with, and lanes, which each mixes by numbers of its own."""

import jax
import numpy as np
import pytest
from segmented import BATCH, gradient, mean_nll

import tiny
from ease_jax.checks import ConfigError
from ease_jax.core.objective import LossSpec
from ease_jax.model import lanes as lanes_lib
from ease_jax.model import with_segments
from ease_jax.model.attention import positions
from ease_jax.model.sight import Places
from ease_jax.model.walk import RUNNING, Call

RUNS = 3
OPTIONS = dict(carry_init='input', inject='lanes', prelude=1, num_layers=1)


def model_of(lanes=2, segments=RUNS, **options):
  return tiny.refine(lanes=lanes, segments=segments, **(OPTIONS | options))


def unmixed(params, run, lanes):
  """The numbers of one run: those it reads, mixes and writes by."""
  changes = params['streams'][f'run_{run}']
  numbers = np.asarray(
    lanes_lib.first_numbers(run, lanes) + lanes_lib.SCALE * changes
  )
  read, mix, write = np.split(numbers, (lanes, lanes + lanes**2))
  return read, mix.reshape(lanes, lanes), write


def by_hand(model, params, lanes):
  """States after each run, from the equations (2604.21106)."""
  bound = model.bind({'params': params})
  tokens = BATCH['tokens']
  layer = bound.windows(Places(positions(tokens.shape[1])))

  def block(cell, h_BxTxD):
    return layer(Call(cell, 0, None, None, None), h_BxTxD).h_BxTxD

  prelude, *core = model.grid.cells
  place_1xT = positions(tokens.shape[1])
  embedded_BxTxD = bound.embed_tokens(tokens, place_1xT)
  lane_N = [block(prelude, embedded_BxTxD)] * lanes
  state_S = []
  for run, cell in enumerate(core):
    read_N, mix_NxN, write_N = unmixed(params, run, lanes)
    s = bound.streams.norm(block(cell, weighted(read_N, lane_N)))
    lane_N = [
      weighted(row_N, lane_N) + b * s
      for row_N, b in zip(mix_NxN, write_N, strict=True)
    ]
    state_S.append(sum(lane_N))
  return state_S


def weighted(weight_N, lane_N):
  return sum(w * lane for w, lane in zip(weight_N, lane_N, strict=True))


@pytest.mark.parametrize('lanes', [1, 2, 3])
def test_states_are_those_of_the_equations(lanes):
  model = model_of(lanes, carry_norm=True)
  params = tiny.params(model)
  expected_S = by_hand(model, params, lanes)
  states = model.apply({'params': params}, BATCH['tokens'], method='states')
  for state, expected in zip(states, expected_S, strict=True):
    np.testing.assert_allclose(state, expected, rtol=1e-4, atol=1e-5)


def test_at_first_runs_read_the_lanes_in_turn_and_add_to_all():
  model = model_of()
  params = model.init(jax.random.key(0), BATCH['tokens'])['params']
  for run in range(RUNS):
    read, mix, write = unmixed(params, run, 2)
    np.testing.assert_array_equal(read, np.eye(2)[run % 2])
    np.testing.assert_array_equal(mix, np.eye(2))
    np.testing.assert_array_equal(write, np.ones(2))


def test_training_gives_each_run_its_own_numbers():
  """One program runs all segments, and which one it is is no constant."""
  model = model_of(carry_backprop=RUNS)
  params = tiny.params(model)
  spec = LossSpec((0.0, 0.0, 1.0), segments=RUNS, carry_backprop=RUNS)
  grads, metrics = gradient(params, model, spec, BATCH)
  bound = model.bind({'params': params})
  last = bound.states(BATCH['tokens'])[-1]
  nll = mean_nll(bound, RUNS - 1, last, BATCH)
  np.testing.assert_allclose(metrics['loss'], nll, rtol=1e-5)
  for run in range(RUNS):
    assert np.asarray(grads['streams'][f'run_{run}']).all(), run


def test_runs_beyond_those_trained_do_as_the_last():
  model = model_of(segments=2)
  params = tiny.params(model)
  more = with_segments(model, 4)
  tiny.assert_trees_equal(params, tiny.params(more))
  twin = model_of(segments=4)
  own = params['streams']
  first = lanes_lib.first_numbers
  later = {
    f'run_{run}': own['run_1'] + (first(1, 2) - first(run, 2)) / lanes_lib.SCALE
    for run in (2, 3)
  }
  tokens = BATCH['tokens']
  np.testing.assert_allclose(
    tiny.logits(params, tokens, model=more),
    tiny.logits(params | {'streams': own | later}, tokens, model=twin),
    rtol=1e-4,
    atol=1e-4,
  )


def test_lanes_begin_as_the_input():
  with pytest.raises(ConfigError, match='carry_init=zeros .* use input'):
    model_of(carry_init='zeros')


# ------------------------------------------------------------- a normed input


@pytest.mark.parametrize('inject', ['add', 'concat', 'lanes'])
def test_a_normed_input_has_one_size_whatever_the_embedding(inject):
  model = model_of(inject=inject, prelude=0, input_norm=True)
  params = tiny.params(model)
  larger = params | {'embed': 64 * params['embed']}
  tokens = BATCH['tokens']
  np.testing.assert_allclose(
    tiny.logits(larger, tokens, model=model),
    tiny.logits(params, tokens, model=model),
    rtol=1e-3,
    atol=1e-3,
  )


@pytest.mark.parametrize('inject', ['concat', 'lanes'])
def test_behind_a_prelude_its_output_is_normed(inject):
  model = model_of(inject=inject, input_norm=True)
  bound = model.bind({'params': tiny.params(model)})
  prelude = model.grid.head[-1]
  tokens = BATCH['tokens']
  h_BxTxD = bound.embed_tokens(tokens, positions(tokens.shape[1]))
  written = bound.written(prelude, {RUNNING: h_BxTxD}, 0)
  assert set(written) == set(prelude.writes)
  for name in prelude.writes:
    normed = bound.streams.input.norm(h_BxTxD)
    np.testing.assert_array_equal(written[name], normed)
