"""Self-speculative decoding loses nothing, whatever the drafts are."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from ease_jax import config, decode
from ease_jax.decode import loop, rounds, sampling
from ease_jax.decode.sampling import Sampling

LENGTH = 40
MODEL = tiny.stack(readouts=(1, 2, 4))
PARAMS = tiny.params(MODEL)
PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5, 3, 5, 8]]


def options(**changes):
  return decode.Options(**(dict(context=LENGTH, max_new_tokens=99) | changes))


def agreeing(scale=1.0):
  """Parameters whose deep layers change little: drafts are often right."""
  params = jax.tree.map(lambda x: x, PARAMS)
  for i in (2, 3):
    for name in ('out', 'mlp'):
      part = params[f'layer_{i}'][name]
      params[f'layer_{i}'][name] = jax.tree.map(lambda x: x * 0.2 * scale, part)
  return params


def both(params, draft, model=MODEL, **changes):
  """(text with speculation, text without) of each prompt, and the tally."""
  variables, o = {'params': params}, options(**changes)
  got, tally = decode.speculate(model, variables, PROMPTS, draft, options=o)
  wanted = [
    decode.generate(model, variables, [p], options=o)[0][0] for p in PROMPTS
  ]
  return list(zip(got, wanted, strict=True)), tally


@pytest.mark.parametrize(
  'draft',
  [
    decode.Draft(),
    decode.Draft(1, 3),
    decode.Draft(1, 1),
    decode.Draft(0, 11),
    decode.Draft(1, 4, 0.5),
    decode.Draft(0, 4, 0.3, 'margin'),
  ],
)
@pytest.mark.parametrize('params', ['agreeing', 'other'])
def test_greedy_tokens_are_the_full_models(draft, params):
  pairs, tally = both(agreeing() if params == 'agreeing' else PARAMS, draft)
  for got, wanted in pairs:
    tiny.assert_trees_equal(got, wanted)
    assert len(got.tokens) == LENGTH
  assert 0 < tally.accepted <= tally.drafted
  new = sum(len(got.exits) for got, _ in pairs)
  # Every token is a draft that was right, or what a check put in its place.
  assert tally.accepted <= new <= tally.accepted + tally.rounds
  # R22: by the programs' own counts.
  shallow = MODEL.grid.depth_K[draft.readout]
  deep = MODEL.grid.depth - shallow
  assert tally.layers_run == tally.drafted * shallow + tally.rounds * deep
  assert tally.heads_run == tally.drafted + tally.rounds
  if params == 'agreeing' and draft.length == 3:
    assert tally.accepted > 0.6 * tally.drafted
    assert tally.layers_run < 0.8 * new * MODEL.grid.depth


def test_a_low_score_ends_the_drafting():
  free = both(agreeing(), decode.Draft(1, 8))[1]
  sure = both(agreeing(), decode.Draft(1, 8, 0.6))[1]
  assert sure.accepted / sure.drafted > free.accepted / free.drafted
  never = both(agreeing(), decode.Draft(1, 8, np.inf))[1]
  assert never.drafted == never.rounds


def test_segments_draft_for_each_other():
  model = tiny.body(body='refine', num_layers=2, segments=3)
  for readout in (0, 1, 2):  # inside and at the end of a segment
    pairs, _ = both(
      tiny.params(model),
      decode.Draft(readout, 3),
      model=model,
      max_new_tokens=12,
    )
    for got, wanted in pairs:
      tiny.assert_trees_equal(got, wanted)


def test_hrm_drafts_like_any_other():
  """All its streams are kept, so that a check goes on from them."""
  model = tiny.hrm(segments=3)
  pairs, tally = both(
    tiny.params(model), decode.Draft(1, 3), model=model, max_new_tokens=12
  )
  for got, wanted in pairs:
    tiny.assert_trees_equal(got, wanted)
  assert 0 < tally.accepted <= tally.drafted


@pytest.mark.parametrize('place', range(1, 7))
def test_an_end_inside_a_block_ends_the_text(place):
  """R13: nothing that was accepted after it comes out."""
  params, draft = agreeing(), decode.Draft(1, 6)
  free = both(params, draft)[0][0][1].tokens
  eos_id = int(free[3 + place])
  pairs, _ = both(params, draft, eos_id=eos_id)
  for got, wanted in pairs:
    tiny.assert_trees_equal(got, wanted)
  (first,), tally = decode.speculate(
    MODEL,
    {'params': params},
    PROMPTS[:1],
    draft,
    options=options(eos_id=eos_id),
  )
  assert tally.accepted <= len(first.exits) <= tally.accepted + tally.rounds
  assert first.tokens[-1] == eos_id
  assert eos_id not in first.tokens[3:-1]


@pytest.mark.parametrize('budget', [1, 2, 5])
def test_a_draft_longer_than_what_may_come(budget):
  pairs, tally = both(agreeing(), decode.Draft(1, 9), max_new_tokens=budget)
  for got, wanted in pairs:
    tiny.assert_trees_equal(got, wanted)
    assert len(got.exits) == budget
  assert tally.drafted <= len(PROMPTS) * budget * (budget + 1) / 2


@pytest.mark.parametrize(
  'settings', [Sampling(1.0), Sampling(0.8, top_k=5), Sampling(1.3, top_p=0.8)]
)
def test_sampled_tokens_have_the_full_models_distribution(settings):
  """A chi-squared test of the first two tokens, 4,000 draws."""
  num, prompt, draft = 4000, PROMPTS[2], decode.Draft(1, 2)
  o = options(sampling=settings, chunk=2)
  cache, slot = loop.prefilled(MODEL, PARAMS, [prompt], None, o)

  @jax.jit
  @functools.partial(jax.vmap)
  def draw(key):
    s = rounds.rounds(
      PARAMS,
      cache,
      jnp.int32(prompt[-1]),
      jnp.int32(len(prompt) - 1),
      jnp.int32(slot),
      key,
      jnp.int32(LENGTH),
      jnp.int32(-1),
      num=2,
      model=MODEL,
      draft=draft,
      sampling=settings,
    )
    return s.new_N[:2], s.tally

  token_Nx2, tally = jax.device_get(
    draw(jax.random.split(jax.random.key(5), num))
  )
  assert 0.1 < tally.accepted.sum() / tally.drafted.sum() < 0.9

  def chances(rows):
    logits = MODEL.apply({'params': PARAMS}, jnp.asarray(rows))[-1, :, -1]
    weights = sampling.log_weights(logits, settings)
    return np.asarray(jax.nn.softmax(weights), np.float64)

  first_V = chances([prompt])[0]
  then_VxV = chances([[*prompt, v] for v in range(tiny.VOCAB)])
  for tokens_N, p_V in (
    (token_Nx2[:, 0], first_V),
    (token_Nx2[:, 1], first_V @ then_VxV),
  ):
    found_V = np.bincount(tokens_N, minlength=tiny.VOCAB)
    assert (found_V[p_V == 0] == 0).all()
    often = num * p_V > 5
    expected = np.append(num * p_V[often], num * p_V[~often].sum())
    found = np.append(found_V[often], found_V[~often].sum())
    expected, found = expected[expected > 1], found[expected > 1]
    chi2 = ((found - expected) ** 2 / expected).sum()
    degrees = len(expected) - 1
    # Mean and five standard deviations of the chi-squared distribution.
    assert chi2 < degrees + 5 * np.sqrt(2 * max(degrees, 1))


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: decode.Draft(length=0), 'draft length=0 must be at least 1'),
    (
      lambda: decode.Draft(signal='patience'),
      "signal='patience' cannot draft: it compares readouts or needs a learned "
      "head; use one of ('max_prob', 'margin', 'entropy')",
    ),
    (
      lambda: both(PARAMS, decode.Draft(2)),
      'draft readout=2 of a model with 3 readouts; only 0 to 1 are before the '
      'last',
    ),
    (
      lambda: both({}, decode.Draft(0), model=tiny.stack(readouts=(4,))),
      'speculation drafts with a readout before the last; model.readouts=(4,) '
      'is one; train with more readouts',
    ),
    (
      lambda: decode.candidates(tiny.stack(readouts=(4,))),
      'speculation drafts with a readout before the last; model.readouts=(4,) '
      'is one; train with more readouts',
    ),
  ],
)
def test_what_cannot_draft_is_refused(make, message):
  with pytest.raises(config.ConfigError) as error:
    make()
  assert str(error.value) == message
