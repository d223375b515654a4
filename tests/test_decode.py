"""Generation is what the exit-consistent evaluation says (R9)."""

import jax
import numpy as np
import pytest
from generation import (
  CHUNK,
  INF,
  LENGTH,
  PARAMS,
  PROMPTS,
  STACK,
  WARM,
  alone,
  assert_as_evaluated,
  generate,
  options,
  point_of,
  sampled,
)

import tiny
from ease_jax.checks import ConfigError
from ease_jax.decode import deferred, loop

CASES = [
  ('stack', 'max_prob', 'copy_state'),
  ('stack', 'max_prob', 'drop'),
  ('stack', 'patience', 'recompute'),
  ('near', 'max_prob', 'recompute'),
  ('near', 'max_prob', 'drop'),
  ('refine', 'max_prob', 'latest'),
  ('core', 'state_change', 'latest'),
  ('hrm', 'q_halt', 'recompute'),
]
every_case = pytest.mark.parametrize('name, signal, policy', CASES)


@every_case
def test_generation_is_what_the_evaluation_says(name, signal, policy):
  """For rows that begin, exit and end at different places."""
  point = point_of(name, signal, policy)
  texts, _ = sampled(name, signal, policy)
  assert_as_evaluated(texts, point, name)
  assert sum(len(set(text.tokens)) for text in texts) > 20
  seen = np.unique(np.concatenate([text.exits for text in texts]))
  may_stop_early = sum(t < INF for t in point.threshold)
  assert len(seen) >= min(3, may_stop_early + 1)


@every_case
def test_a_row_does_not_know_the_other_rows(name, signal, policy):
  """R7, with sampling: the program is the same, the others are not."""
  others = [PROMPTS[0], [2] * 5, [11]]
  point = point_of(name, signal, policy)
  texts, _ = sampled(name, signal, policy)
  beside_others, _ = generate(others, point, name, sampling=WARM)
  tiny.assert_trees_equal(texts[0], beside_others[0])
  assert list(texts[1].tokens) != list(beside_others[1].tokens)


@pytest.mark.parametrize('policy', ['copy_state', 'drop', 'recompute'])
def test_a_row_is_the_same_alone(policy):
  together, _ = sampled('stack', 'max_prob', policy)
  text, _ = alone('stack', 'max_prob', policy)
  tiny.assert_trees_equal(together[0], text)


@pytest.mark.parametrize('policy', ['copy_state', 'recompute'])
def test_what_prompt_tokens_do_is_explicit(policy):
  """R12: by the exits' rule, or through all layers, and nothing else."""
  point = point_of('stack', 'max_prob', policy)
  prompt = PROMPTS[1]
  logits = {}
  for prefill, rule in (('exits', point.rule), ('full', None)):
    (text,), _ = generate([prompt], point, prefill=prefill, max_new_tokens=1)
    cache = tiny.prefilled(
      STACK, PARAMS, rule, point.threshold_K(3), prompt[:-1], LENGTH
    )
    stepped, logits_BxV, _, _ = tiny.one_step(
      STACK, PARAMS, point.rule, point.threshold_K(3), prompt[-1:], 7, cache
    )
    assert text.exits[0] == stepped.exit_B[0]
    assert text.tokens[-1] == logits_BxV[0].argmax()
    logits[prefill] = logits_BxV

    # A token may be the same by chance; what it looks back at may not.
    made, _ = loop.prefilled(
      STACK, PARAMS, [prompt], point, options(prefill=prefill)
    )
    _, made_BxV, _, _ = tiny.one_step(
      STACK, PARAMS, point.rule, point.threshold_K(3), prompt[-1:], 7, made
    )
    np.testing.assert_allclose(made_BxV, logits_BxV, rtol=1e-4, atol=1e-4)

  same = np.allclose(logits['exits'], logits['full'], rtol=1e-4, atol=1e-4)
  # The keys and values of `recompute` are the true ones anyway.
  assert same == (policy == 'recompute')


def test_deferred_layers_of_many_tokens_are_as_evaluated():
  point = tiny.point('max_prob', 'recompute', (0.45, 0.5, INF))
  texts, _ = generate(PROMPTS, point, sampling=WARM)
  assert_as_evaluated(texts, point)
  behind = [(text.exits < 2).sum() for text in texts]
  assert max(behind) > deferred.WINDOW


# ------------------------------------------------------------------ one text


def greedy(prompt, threshold, **changes):
  point = tiny.point('max_prob', 'copy_state', threshold)
  (text,), _ = generate([prompt], point, **changes)
  return text


def test_greedy_generation_without_exits_is_the_models_own():
  text = greedy([3, 1, 4], INF)
  assert len(text.tokens) == LENGTH
  assert (text.exits == 2).all()

  tokens = text.tokens[None]
  logits_KxBxTxV = jax.jit(STACK.apply)({'params': PARAMS}, tokens)
  best_T = np.asarray(logits_KxBxTxV[-1, 0]).argmax(-1)
  np.testing.assert_array_equal(text.tokens[3:], best_T[2:-1])

  (off,), counts = generate([[3, 1, 4]])
  tiny.assert_trees_equal(off, text)
  new = LENGTH - 3
  assert counts == (new, new * STACK.grid.depth, new, 0)


def test_generation_stops_on_time():
  free = greedy([3, 1, 4], -INF)
  assert (free.exits == 0).all()
  assert len(free.exits) == LENGTH - 3
  short = greedy([3, 1, 4], -INF, max_new_tokens=2)
  np.testing.assert_array_equal(short.tokens, free.tokens[:5])


def test_generation_ends_with_the_token_that_ends_texts():
  free = greedy([3, 1, 4], -INF)
  eos_id = int(free.tokens[4])
  end = 3 + free.tokens[3:].tolist().index(eos_id)
  stopped = greedy([3, 1, 4], -INF, eos_id=eos_id)
  np.testing.assert_array_equal(stopped.tokens, free.tokens[: end + 1])


def test_generation_follows_its_seed():
  point = point_of('stack', 'max_prob', 'copy_state')

  def drawn(seed):
    (text,), _ = generate([[3, 1, 4]], point, sampling=WARM, seed=seed)
    return text.tokens

  np.testing.assert_array_equal(drawn(1), drawn(1))
  assert (drawn(1) != drawn(2)).any()


@pytest.mark.parametrize('length', [0, LENGTH, LENGTH + 5])
def test_a_prompt_must_leave_room(length):
  with pytest.raises(ConfigError) as error:
    greedy([1] * length, INF)
  assert str(error.value) == (
    f'--prompt has {length} tokens; it must have 1 to {LENGTH - 1} '
    f'(data.seq_len={LENGTH}); change its length'
  )


def test_chunks_of_steps_and_a_growing_cache_change_nothing():
  point = point_of('stack', 'max_prob', 'copy_state')
  long = dict(context=64, sampling=WARM)
  texts, counts = generate(PROMPTS[:1], point, **long)
  assert len(texts[0].tokens) == 64  # the prompt stands in slots up to 32
  chunked = generate(PROMPTS[:1], point, chunk=CHUNK - 1, **long)
  tiny.assert_trees_equal((texts, counts), chunked)
