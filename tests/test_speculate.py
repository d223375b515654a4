"""Self-speculative decoding loses nothing, whatever the drafts are."""

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
)

import tiny
from ease_jax import config, decode
from ease_jax.decode.sampling import Sampling


@pytest.mark.parametrize(
  'draft',
  [
    decode.Draft(1, 4),
    decode.Draft(1, 1),
    decode.Draft(0, 7),
    decode.Draft(1, 4, 0.5),
    decode.Draft(0, 4, 0.3, 'margin'),
  ],
)
@pytest.mark.parametrize(
  'params', [AGREEING, PARAMS], ids=['agreeing', 'other']
)
def test_greedy_tokens_are_the_full_models(draft, params):
  pairs, tally = both(params, draft)
  assert_same_texts(pairs)
  assert all(len(text.tokens) == LENGTH for text, _ in pairs)

  assert 0 < tally.accepted <= tally.drafted
  new = sum(len(text.exits) for text, _ in pairs)
  # Every token is a draft that was right, or what a check put in its place.
  assert tally.accepted <= new <= tally.accepted + tally.rounds
  # R22: by the programs' own counts.
  shallow = MODEL.grid.depth_K[draft.readout]
  deep = MODEL.grid.depth - shallow
  assert tally.layers_run == tally.drafted * shallow + tally.rounds * deep
  assert tally.heads_run == tally.drafted + tally.rounds


def test_drafts_that_agree_save_layers():
  pairs, tally = both(AGREEING, decode.Draft(1, 4))
  new = sum(len(text.exits) for text, _ in pairs)
  assert tally.accepted > 0.6 * tally.drafted
  assert tally.layers_run < 0.8 * new * MODEL.grid.depth


def test_a_low_score_ends_the_drafting():
  _, free = both(AGREEING, decode.Draft(1, 4))
  _, sure = both(AGREEING, decode.Draft(1, 4, 0.5))
  assert sure.accepted / sure.drafted > free.accepted / free.drafted
  _, never = both(AGREEING, decode.Draft(1, 4, np.inf))
  assert never.drafted == never.rounds


@pytest.mark.parametrize('readout', [0, 1])  # inside a segment, at its end
def test_segments_draft_for_each_other(readout):
  model = tiny.refine(segments=2)
  draft = decode.Draft(readout, 3)
  pairs, _ = both(tiny.params(model), draft, model=model)
  assert_same_texts(pairs)


def test_drafts_and_checks_see_the_same_window_and_limits():
  model = tiny.stack(window=4, logit_cap=1.0, score_cap=0.5)
  pairs, tally = both(tiny.params(model), decode.Draft(1, 3), model=model)
  assert_same_texts(pairs)
  assert 0 < tally.accepted < tally.drafted


@pytest.mark.parametrize('inject', ['concat', 'lanes', 'none'])
def test_fewer_runs_draft_for_more(inject):
  """Each draft through the coda, which the check then makes anew."""
  injecting = dict(carry_init='input', carry_norm=True)
  model = tiny.refine(
    num_layers=1,
    prelude=1,
    coda=1,
    inject=inject,
    **(injecting if inject != 'none' else {}),
  )
  pairs, tally = both(tiny.params(model), decode.Draft(0, 3), model=model)
  assert_same_texts(pairs)
  assert 0 < tally.accepted < tally.drafted
  # A prelude, a run and a coda; then two more runs, and the coda again.
  assert tally.layers_run == 3 * tally.drafted + 3 * tally.rounds


def test_hrm_drafts_like_any_other():
  """All its streams are kept, so that a check goes on from them."""
  model = tiny.hrm(segments=2, cycles=1)
  pairs, tally = both(tiny.params(model), decode.Draft(0, 3), model=model)
  assert_same_texts(pairs)
  assert 0 < tally.accepted <= tally.drafted


@pytest.mark.parametrize('place', range(1, 7))
def test_an_end_inside_a_block_ends_the_text(place):
  """R13: nothing that was accepted after it comes out."""
  draft = decode.Draft(1, 4)
  pairs, _ = both(AGREEING, draft)
  free = pairs[0][1].tokens
  eos_id = int(free[3 + place])
  pairs, _ = both(AGREEING, draft, eos_id=eos_id)
  assert_same_texts(pairs)

  (first,), tally = decode.speculate(
    MODEL,
    {'params': AGREEING},
    PROMPTS[:1],
    draft,
    options=options(eos_id=eos_id),
  )
  assert tally.accepted <= len(first.exits) <= tally.accepted + tally.rounds
  assert first.tokens[-1] == eos_id
  assert eos_id not in first.tokens[3:-1]


@pytest.mark.parametrize('budget', [1, 2, 5])
def test_a_draft_longer_than_what_may_come(budget):
  pairs, tally = both(AGREEING, decode.Draft(0, 7), max_new_tokens=budget)
  assert_same_texts(pairs)
  assert all(len(text.exits) == budget for text, _ in pairs)
  assert tally.drafted <= len(PROMPTS) * budget * (budget + 1) / 2


@pytest.mark.parametrize('settings', [Sampling(1.0), Sampling(0.8, top_k=5)])
def test_sampled_tokens_have_the_full_models_distribution(settings):
  token_Nx2, tally = drawn(settings, decode.Draft(1, 2), 2)
  assert 0.1 < tally.accepted.sum() / tally.drafted.sum() < 0.9
  assert_as_the_full_model_draws(token_Nx2, settings)


@pytest.mark.parametrize(
  'make, message',
  [
    (
      lambda: decode.Draft(length=0),
      'generate.draft.length=0 must be at least 1',
    ),
    (
      lambda: decode.Draft(signal='patience'),
      "signal='patience' cannot draft: it compares readouts or needs a learned "
      "head; use one of ('max_prob', 'margin', 'entropy')",
    ),
    (
      lambda: both(PARAMS, decode.Draft(2)),
      'generate.draft: readout=2 of a model with 3 readouts; only 0 to 1 are '
      'before the last',
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
