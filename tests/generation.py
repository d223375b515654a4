"""Generated texts and their evaluation, which several test files share.

Everything has one context and one chunk of steps, so that each body, signal
and policy is compiled once for three rows and once for one.
"""

import functools

import jax
import numpy as np

import tiny
from ease_jax import decode
from ease_jax.decode import sampling

INF = np.inf
LENGTH = 32
CHUNK = 8
PROMPTS = [[3, 1, 4], [5, 9, 2, 6, 5, 3, 5, 8], [9, 7]]
WARM = decode.Sampling(temperature=1.5, top_p=0.95)

BODIES = {
  'stack': tiny.stack(readouts=(1, 2, 4)),  # its third layer has no readout
  'near': tiny.stack(readouts=(1, 2, 4), window=4),
  'refine': tiny.refine(num_layers=1, segments=4),
  'core': tiny.refine(
    num_layers=1, segments=4, prelude=1, coda=1, carry_init='input'
  ),
  'hrm': tiny.hrm(segments=2, cycles=1),
}
STACK = BODIES['stack']
PARAMS = tiny.params(STACK)
# Mixed exits of the stack on these prompts.
OF_STACK = {
  'max_prob': (0.55, 0.6, INF),
  'state_cosine': (INF, 0.75, INF),
  'kl': (INF, -1.0, INF),
  'patience': (INF, 1.0, INF),
  'shortlist': (0.65, 0.7, INF),
}


def options(**changes):
  fields = dict(context=LENGTH, max_new_tokens=100, chunk=CHUNK)
  return decode.Options(**(fields | changes))


def generate(prompts, point=None, name='stack', **changes):
  model = BODIES[name]
  variables = {'params': tiny.params(model)}
  return decode.generate(
    model, variables, prompts, point, options=options(**changes)
  )


def point_of(name, signal, policy):
  """Where some tokens stop early and some do not."""
  if name == 'stack':
    return tiny.point(signal, policy, OF_STACK[signal])
  model = BODIES[name]
  threshold_K = tiny.thresholds(
    model, tiny.params(model), signal, tiny.batch(4, 16)
  )
  return tiny.point(signal, policy, threshold_K)


@functools.cache
def sampled(name, signal, policy):
  """Three texts, and what the loop did for them."""
  point = point_of(name, signal, policy)
  return generate(PROMPTS, point, name, sampling=WARM)


@functools.cache
def alone(name, signal, policy):
  """The first of them by itself, and what the loop did for it."""
  point = point_of(name, signal, policy)
  (text,), counts = generate(PROMPTS[:1], point, name, sampling=WARM)
  return text, counts


def evaluated(text, point, name='stack'):
  """Exits [T] and logits [T, V] of the exit-consistent pass over a text."""
  model = BODIES[name]
  params = tiny.params(model)
  tokens = np.zeros((1, LENGTH), np.int32)  # of one length: compiled once
  tokens[0, : len(text.tokens)] = text.tokens
  batch = {
    'tokens': tokens,
    'targets': tokens,
    'mask': np.ones(tokens.shape, np.float32),
  }
  walk = tiny.masked(model, params, point, batch)
  logits_TxV = walk.normed_BxTxD[0] @ np.asarray(params['unembed']).T
  return walk.exit_BxT[0], logits_TxV


def assert_as_evaluated(texts, point, name='stack'):
  """Token for token and exit for exit; the texts were drawn by `WARM`."""
  keys = jax.random.split(jax.random.key(0), len(texts))
  for key, text in zip(keys, texts):
    exit_T, logits_TxV = evaluated(text, point, name)
    num = len(text.tokens)
    at_N = np.arange(num - len(text.exits), num) - 1
    np.testing.assert_array_equal(text.exits, exit_T[at_N])

    with jax.debug_key_reuse(False):  # the same draws as in the loop
      key_N = jax.vmap(jax.random.fold_in, (None, 0))(key, at_N)
      drawn_N = sampling.draw(logits_TxV[at_N], key_N, WARM)
    np.testing.assert_array_equal(text.tokens[at_N + 1], drawn_N)
