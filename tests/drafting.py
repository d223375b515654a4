"""Models and texts for tests of self-speculative decoding."""

import jax
import jax.numpy as jnp
import numpy as np

import tiny
from ease_jax import decode
from ease_jax.decode import loop, rounds, sampling

LENGTH = 20
MODEL = tiny.stack(readouts=(1, 2, 4))
PARAMS = tiny.params(MODEL)
PROMPTS = [[3, 1, 4], [1], [5, 9, 2, 6, 5, 3, 5, 8]]
NUM_DRAWS = 4000


def options(**changes):
  """Of so few tokens that no cache grows: a draft is compiled once."""
  fields = dict(context=LENGTH, max_new_tokens=99, chunk=8)
  return decode.Options(**(fields | changes))


def quieter(params, layers, factor):
  """Parameters with layers that change little of the state, or nothing."""

  def less(branch):
    return jax.tree.map(lambda x: factor * x, branch)

  params = dict(params)
  for name in layers:
    layer = params[name]
    params[name] = layer | {
      'out': less(layer['out']),
      'mlp': less(layer['mlp']),
    }
  return params


# Drafts are often right.
AGREEING = quieter(PARAMS, ('layer_2', 'layer_3'), 0.2)


def both(params, draft, model=MODEL, **changes):
  """(text with speculation, text without) of each prompt, and the tally."""
  variables = {'params': params}
  how = options(**changes)
  texts, tally = decode.speculate(model, variables, PROMPTS, draft, options=how)
  plain = []
  for prompt in PROMPTS:
    (text,), _ = decode.generate(model, variables, [prompt], options=how)
    plain.append(text)
  return list(zip(texts, plain, strict=True)), tally


def assert_same_texts(pairs):
  for text, plain in pairs:
    tiny.assert_trees_equal(text, plain)


def drawn(settings, draft, num):
  """The first tokens of many continuations, [N, num], and the tallies."""
  prompt = PROMPTS[2]
  how = options(sampling=settings)
  cache, slot = loop.prefilled(MODEL, PARAMS, [prompt], None, how)

  @jax.jit
  @jax.vmap
  def draw(key):
    row = rounds.rounds(
      PARAMS,
      cache,
      draft.begin(MODEL.grid),
      jnp.int32(prompt[-1]),
      jnp.int32(len(prompt) - 1),
      jnp.int32(slot),
      key,
      jnp.int32(LENGTH),
      jnp.int32(-1),
      num=num,
      model=MODEL,
      draft=draft,
      sampling=settings,
    )
    return row.new_N[:num], row.tally

  keys = jax.random.split(jax.random.key(5), NUM_DRAWS)
  return jax.device_get(draw(keys))


def chances(settings, rows):
  """Of each next token, by the full model; [rows, V] float64."""
  logits_KxBxTxV = jax.jit(MODEL.apply)({'params': PARAMS}, jnp.asarray(rows))
  weights = sampling.log_weights(logits_KxBxTxV[-1, :, -1], settings)
  return np.asarray(jax.nn.softmax(weights), np.float64)


def assert_as_the_full_model_draws(token_NxM, settings):
  """Each token of many continuations, whatever came before it."""
  rows = [PROMPTS[2]]
  chance_R = np.ones(1)

  for token_N in token_NxM.T:
    p_RxV = chances(settings, rows)
    assert_drawn_from(token_N, chance_R @ p_RxV)
    rows = [[*row, token] for row in rows for token in range(tiny.VOCAB)]
    chance_R = (chance_R[:, None] * p_RxV).ravel()


def assert_drawn_from(token_N, p_V):
  """A chi-squared test; rare tokens are put together."""
  count_V = np.bincount(token_N, minlength=tiny.VOCAB)
  assert (count_V[p_V == 0] == 0).all()
  expected_V = NUM_DRAWS * p_V
  often = expected_V > 5
  expected = np.append(expected_V[often], expected_V[~often].sum())
  counted = np.append(count_V[often], count_V[~often].sum())
  enough = expected > 1
  expected = expected[enough]
  counted = counted[enough]

  chi2 = ((counted - expected) ** 2 / expected).sum()
  degrees = len(expected) - 1
  # Mean and five standard deviations of the chi-squared distribution.
  assert chi2 < degrees + 5 * np.sqrt(2 * max(degrees, 1))
