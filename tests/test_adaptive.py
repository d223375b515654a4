"""Speculation that adapts: who drafts, and how much, is learned on the way."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drafting import (
  AGREEING,
  LENGTH,
  MODEL,
  PARAMS,
  PROMPTS,
  assert_as_the_full_model_draws,
  assert_same_texts,
  both,
  drawn,
  options,
  quieter,
)

import tiny
from ease_jax import config, decode
from ease_jax.decode import adaptive, loop, rounds, sampling
from ease_jax.decode.sampling import Sampling
from ease_jax.model import layers, readout

WAY = decode.Adaptive((1, 2, 5), decay=0.7, look_every=2)
FREE = dataclasses.replace(WAY, early_stop=False)


@pytest.mark.parametrize(
  'params', [AGREEING, PARAMS], ids=['agreeing', 'other']
)
def test_greedy_tokens_are_the_full_models(params):
  before = rounds.rounds._cache_size()
  pairs, tally = both(params, WAY)
  # All readouts and lengths are in one program.
  assert rounds.rounds._cache_size() <= before + 1
  assert_same_texts(pairs)
  assert all(len(text.tokens) == LENGTH for text, _ in pairs)
  assert (tally.chosen_CxN > 0).sum() > 2  # not always the same way
  assert tally.chosen_CxN.sum() == tally.rounds
  new = sum(len(text.exits) for text, _ in pairs)
  assert tally.accepted <= new <= tally.accepted + tally.rounds


@pytest.mark.parametrize(
  'model',
  [tiny.refine(segments=2), tiny.hrm(segments=2, cycles=1)],
  ids=['refine', 'hrm'],
)
def test_segments_draft_for_each_other(model):
  draft = decode.Adaptive((2, 3), decay=0.5, look_every=1, early_stop=False)
  pairs, tally = both(tiny.params(model), draft, model=model)
  assert_same_texts(pairs)
  assert 0 < tally.accepted <= tally.drafted


@pytest.mark.parametrize('place', range(1, 7))
def test_an_end_inside_a_block_ends_the_text(place):
  free, _ = both(AGREEING, WAY)
  eos_id = int(free[0][1].tokens[3 + place])
  pairs, _ = both(AGREEING, WAY, eos_id=eos_id)
  assert_same_texts(pairs)
  assert eos_id not in pairs[0][0].tokens[3:-1]


@pytest.mark.parametrize('budget', [1, 2, 5])
def test_a_draft_longer_than_what_may_come(budget):
  pairs, tally = both(AGREEING, FREE, max_new_tokens=budget)
  assert_same_texts(pairs)
  assert all(len(text.exits) == budget for text, _ in pairs)
  assert tally.drafted <= len(PROMPTS) * budget * (budget + 1) / 2


def test_sampled_tokens_have_the_full_models_distribution():
  """Though what was drawn decides how the next round drafts."""
  settings = Sampling(0.8, top_k=5)
  draft = decode.Adaptive((1, 2, 4), decay=0.1, look_every=1)
  token_Nx3, tally = drawn(settings, draft, 3)
  assert len(np.unique(tally.chosen_CxN, axis=0)) > 2
  assert 0.1 < tally.accepted.sum() / tally.drafted.sum() < 0.9
  assert_as_the_full_model_draws(token_Nx3, settings)


# ------------------------------------------------------------------ the choice


def brute_tokens(alpha, length):
  """Mean over all ways in which drafts may stand or not."""
  mean = 0.0
  for stands in itertools.product((0, 1), repeat=length):
    chance = np.prod([alpha if s else 1 - alpha for s in stands])
    right = length if all(stands) else stands.index(0)
    mean += chance * min(right + 1, length)
  return mean


@pytest.mark.parametrize('alpha', [0.0, 0.3, 0.9, 1.0])
def test_expected_tokens_are_those_of_all_outcomes(alpha):
  lengths = (1, 2, 3, 6)
  token_1xN = adaptive.expected_tokens(jnp.asarray([alpha]), lengths)
  expected_N = [brute_tokens(alpha, length) for length in lengths]
  np.testing.assert_allclose(token_1xN[0], expected_N, rtol=1e-6)


def memory_of(alpha_C, score_C=None):
  """What gives the readouts these chances."""
  alpha_C = jnp.asarray(alpha_C, jnp.float32)
  score_C = alpha_C if score_C is None else jnp.asarray(score_C, jnp.float32)
  four_C = jnp.full(len(alpha_C), 4.0)
  return adaptive.Memory(4 * alpha_C, 4 * score_C, four_C, jnp.int32(0))


def brute_price(prices, readout, length, look_every):
  """FLOPs of the calls of a round, each of one token."""
  depth_K = prices.grid.depth_K
  shallow = prices.cell_L[: depth_K[readout]].sum()
  deep = prices.cell_L[depth_K[readout] :].sum()
  others = prices.grid.num_readouts - 2
  looks = others * prices.head / look_every
  return length * (shallow + prices.head) + deep + prices.head + looks


@pytest.mark.parametrize('seed', range(20))
def test_the_choice_brings_most_tokens_for_its_cost(seed):
  rng = np.random.default_rng(seed)
  model = tiny.stack(readouts=(1, 2, 3, 4))
  prices = model.costs(rng.integers(16, 4000))
  alpha_C = rng.uniform(0, 1, 3) ** 0.3
  way = decode.Adaptive((1, 2, 3, 5, 9), look_every=3)
  choice = way.choose(memory_of(alpha_C, 0.5 * alpha_C), prices)

  rates = {
    (c, length): brute_tokens(alpha_C[c], length)
    / brute_price(prices, c, length, 3)
    for c in range(3)
    for length in way.lengths
  }
  best = max(rates, key=rates.__getitem__)
  assert (int(choice.drafter), int(choice.length)) == best
  # One more draft is worth it if it comes out for the same price.
  one = prices.cell_L[: best[0] + 1].sum() + prices.head
  np.testing.assert_allclose(choice.least, rates[best] * one, rtol=1e-5)
  np.testing.assert_allclose(choice.trust, 2, rtol=1e-5)


@pytest.mark.parametrize('alpha', [0.2, 0.6, 0.8, 0.95])
def test_it_drafts_as_much_as_one_would_choose(alpha):
  """Where every draft is as sure as their mean, the end is the best length."""
  prices = MODEL.costs(64)
  way = decode.Adaptive(tuple(range(1, 40)))
  choice = way.choose(memory_of([alpha, 0.0], [0.3, 0.3]), prices)
  sure = jnp.float32(1)
  num = 0
  while num < 39 and (num == 0 or sure >= choice.least):
    sure = way.sure(sure, jnp.float32(0.3), choice)
    num += 1
  assert num == choice.length
  assert num > 2 or alpha < 0.7


def chosen_by(model, params, way):
  """Rounds by readout and length of a long text, and its tally."""
  how = decode.Options(context=200, max_new_tokens=99, chunk=100)
  (text,), tally = decode.speculate(
    model, {'params': params}, [[3, 1, 4]], way, options=how
  )
  assert len(text.exits) == 99
  return tally


def test_a_readout_that_is_always_right_drafts_much():
  params = quieter(PARAMS, ('layer_1', 'layer_2', 'layer_3'), 0)
  tally = chosen_by(MODEL, params, decode.Adaptive((1, 4, 8), decay=0.5))
  first_N, second_N = tally.chosen_CxN
  assert first_N[-1] > 5 and first_N[:-1].sum() < 5
  assert second_N.sum() == 0
  assert tally.accepted == 99
  assert tally.layers_run < 0.6 * 99 * MODEL.grid.depth


def test_where_nobody_is_right_nobody_drafts():
  """One token a check is plain decoding."""
  model = tiny.stack(readouts=(1, 2, 4), readout_norm='per_readout')
  params = dict(tiny.params(model))
  for name in ('readout_norm_0', 'readout_norm_1'):  # says the opposite
    params[name] = jax.tree.map(jnp.negative, tiny.params(model)[name])
  tally = chosen_by(model, params, decode.Adaptive((1, 4, 8), decay=0.5))
  assert tally.chosen_CxN[:, 0].sum() > tally.rounds - 5
  assert tally.accepted < 5
  assert tally.layers_run < 1.1 * 99 * model.grid.depth


def test_the_unsure_are_not_asked_to_go_on():
  (_, free), (_, sure) = (both(AGREEING, way) for way in (FREE, WAY))
  assert sure.accepted / sure.drafted > free.accepted / free.drafted


# --------------------------------------------------------- what is looked at


def one_round(params, way, memory, prompt, settings):
  """A row after one round."""
  how = options(chunk=1)
  cache, slot = loop.prefilled(WIDE, params, [prompt], None, how)
  return rounds.rounds(
    params,
    cache,
    memory,
    jnp.int32(prompt[-1]),
    jnp.int32(len(prompt) - 1),
    jnp.int32(slot),
    jax.random.key(1),
    jnp.int32(LENGTH),
    jnp.int32(-1),
    num=1,
    model=WIDE,
    draft=way,
    sampling=settings,
  )


WIDE = tiny.stack(readouts=(1, 2, 3, 4))
ONES = np.eye(3)


@pytest.mark.parametrize('settings', [Sampling(), Sampling(0.7, top_k=9)])
@pytest.mark.parametrize('drafter', range(3))
def test_every_readout_is_held_to_the_full_model(drafter, settings):
  """The shadows: of readouts before the drafter, itself, and behind it."""
  params = quieter(tiny.params(WIDE), ('layer_1', 'layer_2', 'layer_3'), 0.3)
  way = decode.Adaptive((4,), decay=0.5, look_every=2, early_stop=False)
  before = memory_of(0.01 + 0.9 * ONES[drafter])
  prompt = PROMPTS[2]
  row = one_round(params, way, before, prompt, settings)
  tokens = [*prompt, *row.new_N[: row.count].tolist()]

  logits_KxTxV = tiny.logits(params, jnp.asarray([tokens]), model=WIDE)[:, 0]
  logits_KxNxV = logits_KxTxV[:, len(prompt) - 1 : -1]
  p_KxNxV = jax.nn.softmax(sampling.log_weights(logits_KxNxV, settings))
  right_C = jnp.minimum(p_KxNxV[:-1], p_KxNxV[-1:]).sum((1, 2))
  score_C = jax.nn.softmax(logits_KxNxV[:-1]).max(-1).sum(1)
  expected = adaptive.Memory(
    0.5 * before.right_C + right_C,
    0.5 * before.score_C + score_C,
    0.5 * before.seen_C + row.count,
    jnp.int32(1),
  )
  assert row.tally.chosen_CxN[drafter, 0] == 1
  assert row.tally.heads_run == 4 + 1 + 2
  tiny.assert_trees_close(row.memory, expected, rtol=1e-4)

  # The next one does not look: the drafter alone is known better.
  row = one_round(
    params, way, before._replace(round=jnp.int32(1)), prompt, settings
  )
  others = np.arange(3) != drafter
  kept_C = row.memory.seen_C == before.seen_C
  np.testing.assert_array_equal(kept_C, others)
  assert row.tally.heads_run == 4 + 1


def test_what_was_learned_outlives_a_program():
  """Programs of few tokens and of many draft alike."""
  found = [both(AGREEING, WAY, chunk=chunk) for chunk in (1, 8)]
  texts, tallies = zip(*found)
  tiny.assert_trees_equal(texts[0], texts[1])
  tiny.assert_trees_equal(tallies[0], tallies[1])


def test_counts_are_those_of_what_was_called(monkeypatch):
  """R22: every cell and head that really runs says so."""
  calls = {'cells': 0, 'heads': 0}

  def noted(name):
    calls[name] += 1

  def counted(function, name):
    def call(*args):
      jax.debug.callback(functools.partial(noted, name))
      return function(*args)

    return call

  attend = counted(layers.Block.attend, 'cells')
  monkeypatch.setattr(layers.Block, 'attend', attend)
  monkeypatch.setattr(readout, 'logits', counted(readout.logits, 'heads'))
  way = decode.Adaptive((1, 3), decay=0.5, look_every=2)
  row = rounds.rounds(
    AGREEING,
    decode.init_cache(MODEL, 1, 32),
    way.begin(MODEL.grid),
    *map(jnp.int32, (3, 0, 0)),
    jax.random.key(0),
    *map(jnp.int32, (LENGTH, -1)),
    num=17,  # of no other test: it is compiled with the callbacks
    model=MODEL,
    draft=way,
    sampling=Sampling(),
  )
  tally = jax.device_get(row.tally)
  jax.effects_barrier()
  assert (tally.chosen_CxN.sum(1) > 0).all()  # both readouts drafted
  assert tally.layers_run == calls['cells'] > 0
  assert tally.heads_run == calls['heads'] > 0


# -------------------------------------------------------------------- errors


@pytest.mark.parametrize(
  'make, message',
  [
    (
      lambda: decode.Adaptive(()),
      'generate.adaptive.lengths=() must name one length or more, the shortest '
      'first; for example (1, 2, 4, 8)',
    ),
    (
      lambda: decode.Adaptive((4, 2)),
      'generate.adaptive.lengths=(4, 2) must name one length or more, the '
      'shortest first; for example (1, 2, 4, 8)',
    ),
    (
      lambda: decode.Adaptive((0, 2)),
      'generate.adaptive.lengths=(0, 2) holds 0, which must be at least 1',
    ),
    (
      lambda: decode.Adaptive(decay=1.0),
      'generate.adaptive.decay=1.0 must be below 1',
    ),
    (
      lambda: decode.Adaptive(decay=0.0),
      'generate.adaptive.decay=0.0 must be above 0',
    ),
    (
      lambda: decode.Adaptive(look_every=0),
      'generate.adaptive.look_every=0 must be at least 1',
    ),
    (
      lambda: both({}, decode.Adaptive(), model=tiny.stack(readouts=(4,))),
      'speculation drafts with a readout before the last; model.readouts=(4,) '
      'is one; train with more readouts',
    ),
    (
      lambda: both({}, decode.Adaptive(), model=tiny.refine(coda=1)),
      'generate.drafting=adaptive asks all readouts what they would have '
      'drafted, and this model has a coda before its head, which would run for '
      'each of them; use fixed',
    ),
  ],
)
def test_what_cannot_adapt_is_refused(make, message):
  with pytest.raises(config.ConfigError) as error:
    make()
  assert str(error.value) == message
