"""How tokens are drawn, and which settings of generation are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from generation import PROMPTS, generate

import tiny
from ease_jax import decode
from ease_jax.checks import ConfigError
from ease_jax.decode import sampling

LOGITS = jnp.log(jnp.asarray([[0.1, 0.4, 0.2, 0.3]]))


@pytest.mark.parametrize(
  'options, expected',
  [
    ({}, [0.1, 0.4, 0.2, 0.3]),
    (dict(top_k=2), [0, 4 / 7, 0, 3 / 7]),
    (dict(top_k=9), [0.1, 0.4, 0.2, 0.3]),
    # 0.4 + 0.3 does not hold 0.75 yet.
    (dict(top_p=0.75), [0, 4 / 9, 2 / 9, 3 / 9]),
    (dict(top_p=0.7), [0, 4 / 7, 0, 3 / 7]),
    (dict(top_p=1e-6), [0, 1, 0, 0]),
    (dict(temperature=0.5), [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
    (dict(temperature=0.0), [0, 1, 0, 0]),
  ],
)
def test_sampling_keeps_what_it_says(options, expected):
  settings = decode.Sampling(**{'temperature': 1.0} | options)
  p_V = jax.nn.softmax(sampling.log_weights(LOGITS, settings))[0]
  np.testing.assert_allclose(p_V, expected, rtol=1e-5)


def generated_with(policy, threshold=0.5, signal='max_prob'):
  return generate(PROMPTS, tiny.point(signal, policy, threshold))


@pytest.mark.parametrize(
  'make, message',
  [
    (
      lambda: decode.Sampling(temperature=-1.0),
      'generate.temperature=-1.0 must be at least 0',
    ),
    (
      lambda: decode.Sampling(top_k=-1),
      'generate.top_k=-1 must be at least 0',
    ),
    (
      lambda: decode.Sampling(top_p=0.0),
      'generate.top_p=0.0 must be above 0',
    ),
    (
      lambda: decode.Options(1, 8, prefill='none'),
      "generate.prefill='none' is unknown; use one of: exits, full",
    ),
    (
      lambda: decode.Options(1, 8, chunk=0),
      'generate.chunk=0 must be at least 1',
    ),
    (
      lambda: generate([[5, -1]]),
      '--prompt has the token -1; the vocabulary has 0 to 22; use the '
      'tokenizer of the run',
    ),
    (
      lambda: decode.Options(0, 8),
      'generate.max_new_tokens=0 must be at least 1',
    ),
    (lambda: generate([]), 'no prompts; give a list of at least one'),
    (
      lambda: generated_with('share'),
      "K/V policy 'share' is unknown; use one of ('recompute', 'copy_state', "
      "'drop', 'latest')",
    ),
    (
      lambda: generated_with('copy_kv'),
      "K/V policy 'copy_kv' is a control of the evaluation; decode with "
      'another one',
    ),
    (
      lambda: generated_with('copy_state', signal='q_halt'),
      "exit signal 'q_halt' is learned, and this model has not learned it; "
      'add it to loss.gates and train, or use another signal',
    ),
    (
      lambda: generated_with('copy_state', (0.5, np.inf)),
      'exit thresholds (0.5, inf) are 2; the model has 3 readouts; give one '
      'for each, or one number',
    ),
  ],
)
def test_bad_settings_are_refused(make, message):
  with pytest.raises(ConfigError) as error:
    make()
  assert str(error.value) == message
