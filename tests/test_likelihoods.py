"""Scores of continuations, and texts that end where words come: no harness."""

import dataclasses

import numpy as np
import pytest

import tiny
from ease_jax import deploy
from ease_jax.checks import ConfigError
from ease_jax.core.policies import OperatingPoint
from ease_jax.data import pipeline
from ease_jax.data.tokenizers import Byte
from ease_jax.decode import Options, loop, until
from ease_jax.evaluate import compute, likelihoods, passes, traces
from ease_jax.evaluate.likelihoods import Request, Scorer

PROMPT = 'the cat '
LENGTH = 32  # of the windows of `exiting_run`
TEXT = 'the cat sat on the mat. the mat sat on the cat. ' * 4
ALWAYS = OperatingPoint('max_prob', 'copy_state', 0.0)
NEVER = dataclasses.replace(ALWAYS, threshold=np.inf)


@pytest.fixture(scope='module')
def trained(exiting_run):
  return deploy.load_model(*exiting_run)


def scorer(trained, *points, **fields):
  return Scorer(trained.model, trained.params, points, LENGTH, **fields)


def requests(trained, *pairs):
  """Of pairs of texts."""
  encode = trained.tokenizer.encode
  return [
    likelihoods.request(
      trained.tokenizer, encode(context).tolist(), encode(rest).tolist(), LENGTH
    )
    for context, rest in pairs
  ]


PAIRS = [
  ('the cat sat on the ', 'mat.'),
  ('a', 'b'),
  ('the cat sat on the mat. the cat ', 'sat on'),
  ('the', ' cat sat on the mat.'),
  ('', 'the mat'),
  ('the cat sat on the mat.' * 3, ' the'),
  ('a', 'b'),
]


@pytest.fixture(scope='module')
def middle(trained):
  """A point at which some tokens exit and some do not."""
  tokens = trained.tokenizer.encode(TEXT)

  def batches():
    return pipeline.eval_batches(tokens, LENGTH, 8)

  dump = passes.grid_dump(trained.model, trained.params, batches, ())
  first = dump.max_prob_KxRxT[0][dump.mask_RxT > 0]
  return dataclasses.replace(ALWAYS, threshold=float(np.median(first)))


@pytest.mark.parametrize('policy', ['copy_state', 'recompute'])
def test_windows_of_a_text_add_up_to_the_evaluation(trained, middle, policy):
  point = dataclasses.replace(middle, policy=policy)
  tokens = trained.tokenizer.encode(TEXT)[: 4 * LENGTH + 1]

  def batches():
    return pipeline.eval_batches(tokens, LENGTH, 8)

  model, params = trained.model, trained.params
  dump = passes.grid_dump(model, params, batches, ['max_prob'])
  windows = [
    Request(tuple(tokens[start : start + LENGTH + 1].tolist()), 1)
    for start in range(0, 4 * LENGTH, LENGTH)
  ]
  answers = scorer(trained, None, point).answer(windows)

  for i, setting in enumerate((None, point)):
    trace = traces.trace(model, params, batches, dump, setting)
    mask = dump.mask_RxT > 0
    found = sum(answer[i].value for answer in answers)
    np.testing.assert_allclose(-found, trace.nll_RxT[mask].sum(), rtol=1e-5)

    bills = [answer[i].bill for answer in answers]
    share = sum(bill.flops for bill in bills) / sum(b.full for b in bills)
    facts = compute.compute(model, setting, trace, dump.mask_RxT)
    np.testing.assert_allclose(share, facts['compute'], rtol=1e-6)
    exits = set(trace.exit_RxT[mask].tolist())
    assert exits == ({1} if setting is None else {0, 1}), 'exits must be mixed'


def test_a_threshold_reaches_the_scores(trained):
  """R35: other scores at threshold 0, those of full depth at infinity."""
  asked = requests(trained, *PAIRS)
  for full, never, always in scorer(trained, None, NEVER, ALWAYS).answer(asked):
    assert never == full
    assert full.bill.share == 1
    assert abs(always.value - full.value) > 1e-3
    assert always.bill.share < 1


def test_a_likelihood_is_the_last_readouts_own(trained):
  """By the logits of the plain model."""
  (one,) = requests(trained, ('the cat sat', ' on the'))
  ((found,),) = scorer(trained, None).answer([one])
  token_1xT = np.asarray([one.tokens[:-1]])
  logits = tiny.logits(trained.params, token_1xT, model=trained.model)[-1][0]
  logits = np.asarray(logits, np.float64)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  places = np.arange(one.seen - 1, len(one.tokens) - 1)
  targets = np.asarray(one.tokens[one.seen :])
  expected = log_p[places, targets].sum()
  np.testing.assert_allclose(found.value, expected, rtol=1e-4)
  assert found.is_greedy == (log_p[places].argmax(-1) == targets).all()


def test_what_the_model_would_say_is_greedy_at_its_own_exits(trained, middle):
  prompt = trained.tokenizer.encode('the cat ').tolist()
  options = Options(max_new_tokens=6, context=LENGTH)
  for setting in (None, middle, ALWAYS):
    (text,), _ = loop.generate(
      trained.model,
      {'params': trained.params},
      [prompt],
      setting,
      options=options,
    )
    tokens = text.tokens.tolist()
    own = Request(tuple(tokens), len(prompt))
    other = Request((*tokens[:-1], tokens[-1] ^ 1), len(prompt))
    (yes,), (no,) = scorer(trained, setting).answer([own, other])
    assert (yes.is_greedy, no.is_greedy) == (True, False)


def test_batches_and_order_change_nothing(trained, middle):
  asked = requests(trained, *PAIRS)
  points = None, middle, ALWAYS
  alone = scorer(trained, *points, batch_size=1).answer(asked)
  together = scorer(trained, *points, batch_size=8).answer(asked)
  backwards = scorer(trained, *points).answer(asked[::-1])[::-1]
  assert alone[1] == alone[-1] and len(set(map(str, alone))) == len(PAIRS) - 1
  for other in (together, backwards):
    for one, same in zip(alone, other, strict=True):
      for mine, its in zip(one, same, strict=True):
        np.testing.assert_allclose(mine.value, its.value, rtol=1e-4)
        np.testing.assert_allclose(mine.bill, its.bill, rtol=1e-6)
        assert mine.is_greedy == its.is_greedy


def test_few_shapes_are_compiled():
  assert likelihoods.widths(300) == [32, 64, 128, 256, 300]
  assert likelihoods.widths(256) == [32, 64, 128, 256]
  assert likelihoods.widths(8) == [8]


class Begun(Byte):
  """Bytes whose texts begin with byte 1."""

  bos_id = 1


@pytest.mark.parametrize('more', [-1, 0, 1, 2])
def test_a_context_loses_its_beginning_and_nothing_else(more):
  """The last token is never read: one more than a window has is whole."""
  context = list(range(10, 10 + LENGTH + more - 1))
  one = likelihoods.request(Byte(), context, [5, 6], LENGTH)
  lost = max(0, more)
  assert one.tokens == (*context[lost:], 5, 6)
  assert one.seen == len(context) - lost

  begun = likelihoods.request(Begun(), [1, *context], [5, 6], LENGTH)
  assert begun.tokens[0] == 1
  kept = context[-(LENGTH - 2) :]
  assert begun.tokens[1:] == (*kept, 5, 6)


def test_a_request_without_context_begins_as_texts_do():
  assert likelihoods.first_id(Byte()) == Byte.eos_id
  assert likelihoods.first_id(Begun()) == 1
  assert likelihoods.request(Byte(), [], [5], 8) == Request((0, 5), 1)
  assert likelihoods.request(Begun(), [], [5], 8) == Request((1, 5), 1)
  assert likelihoods.request(Byte(), [], [5] * 8, 8).tokens == (0, *[5] * 8)


@pytest.mark.parametrize(
  'rest, message',
  [
    ([], 'a continuation has no tokens to score'),
    ([5] * 9, 'has 9 tokens, and the model was trained on windows of'),
  ],
)
def test_a_continuation_that_cannot_be_scored(rest, message):
  with pytest.raises(ConfigError, match=message):
    likelihoods.request(Byte(), [5], rest, 8)


def test_tokens_that_see_later_ones_have_no_likelihood():
  model = tiny.stack(attention='full')
  with pytest.raises(ConfigError, match='full attention sees later tokens'):
    Scorer(model, tiny.params(model), [None], LENGTH)


def continued(trained, prompts, stops, point=None, **fields):
  options = Options(max_new_tokens=20, context=LENGTH, eos_id=0)
  prompts = [trained.tokenizer.encode(prompt).tolist() for prompt in prompts]
  return until.continue_until(trained, prompts, stops, point, options, **fields)


def test_words_that_end_a_text_may_span_tokens(trained):
  (free,) = continued(trained, [PROMPT], [])
  assert len(free.exits) == free.bill.tokens == len(free.text) == 20
  word = free.text[6:9]
  place = free.text.index(word)
  (short,) = continued(trained, [PROMPT], ['nowhere', word, ''])
  assert short.text == free.text[:place]
  assert len(short.exits) == place + len(word)


def test_the_exits_reach_what_is_written(trained):
  """R35."""
  (full,) = continued(trained, [PROMPT], [])
  (never,) = continued(trained, [PROMPT], [], NEVER)
  (always,) = continued(trained, [PROMPT], [], ALWAYS)
  assert never == full
  assert set(full.exits) == {1} and set(always.exits) == {0}
  assert always.bill.share < 1 == full.bill.share


def test_texts_are_continued_in_their_order(trained, middle):
  prompts = ['the mat ', 'on', 'the cat sat on', ' the ', 'on']
  alone = []
  for prompt in prompts:
    alone += continued(trained, [prompt], ['.'], middle, batch_size=1)
  for size in (2, 8):
    together = continued(trained, prompts, ['.'], middle, batch_size=size)
    assert together == alone


def test_eos_ends_a_text_and_is_none(trained):
  (free,) = continued(trained, [PROMPT], [])
  end = free.text[1]

  class Ended(Byte):
    eos_id = ord(end)

  ended = trained._replace(tokenizer=Ended())
  options = Options(max_new_tokens=20, context=LENGTH, eos_id=ord(end))
  prompt = list(PROMPT.encode())
  (found,) = until.continue_until(ended, [prompt], [], None, options)
  place = free.text.index(end)
  assert found.text == free.text[:place]
  assert found.bill.tokens == place + 1


def test_the_first_of_several_words_counts():
  assert until.cut('one two three', ['three', 'two']) == 'one '
  assert until.cut('one two', ['three', '']) is None
  assert until.cut('two', ['two']) == ''
