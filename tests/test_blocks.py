"""Options of blocks that imported models have."""

import numpy as np
import pytest

import tiny
from ease_jax.checks import ConfigError

TOKENS = tiny.batch(2, 12)['tokens']


def logits(**changes):
  """Of a stack whose parameters are always the same, [K, B, T, V]."""
  model = tiny.stack(**changes)
  return tiny.logits(tiny.params(model), TOKENS, model=model)


def test_a_window_that_holds_all_tokens_is_none():
  plain = logits()
  np.testing.assert_array_equal(logits(window=12), plain)
  near = logits(window=11)
  np.testing.assert_array_equal(near[:, :, :11], plain[:, :, :11])
  assert (near[:, :, 11] != plain[:, :, 11]).any()


def test_who_sees_itself_alone_knows_nothing_of_others():
  model = tiny.stack(window=1)
  params = tiny.params(model)
  others = TOKENS.copy()
  others[:, 4] += 1
  a, b = (tiny.logits(params, x, model=model) for x in (TOKENS, others))
  same = np.arange(12) != 4
  np.testing.assert_array_equal(a[:, :, same], b[:, :, same])
  assert (a[:, :, 4] != b[:, :, 4]).any()


def test_logits_keep_their_limit():
  limited = logits(logit_cap=0.75)
  assert (np.abs(limited) < 0.75).all()
  np.testing.assert_allclose(
    limited, 0.75 * np.tanh(logits() / 0.75), rtol=1e-5, atol=1e-6
  )


def test_a_query_width_is_that_of_scores():
  """As if the queries were as much smaller."""
  model = tiny.stack(query_width=16)  # four times a head's
  params = tiny.params(model)
  halved = params | {
    name: layer | {'query': {'kernel': layer['query']['kernel'] / 2}}
    for name, layer in params.items()
    if name.startswith('layer_')
  }
  np.testing.assert_array_equal(
    tiny.logits(params, TOKENS, model=model),
    tiny.logits(halved, TOKENS, model=tiny.stack()),
  )


def test_a_window_looks_back():
  with pytest.raises(ConfigError, match=r'attention.window=4 .* full.* use 0'):
    tiny.model_config(window=4, attention='full')
