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


def test_a_window_looks_back():
  with pytest.raises(ConfigError, match=r'attention.window=4 .* full.* use 0'):
    tiny.model_config(window=4, attention='full')
