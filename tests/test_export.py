"""The exported decoder: one file, no source, the same tokens."""

import importlib.util
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest

import tiny
from ease_jax import config, decode
from ease_jax.core.policies import OperatingPoint

LENGTH = 24
PROMPTS = [[3, 1, 4], [5, 9, 2, 6, 5, 3, 5, 8]]

# No ease_jax, no flax: only what the file's docstring says.
ALONE = """
import sys
sys.modules['ease_jax'] = sys.modules['flax'] = None  # an import would fail
import jax, numpy as np
from jax import export
folder = sys.argv[1]
run = export.deserialize(
    bytearray(open(folder + '/decoder.jax', 'rb').read())).call
prompts = np.load(folder + '/prompts.npz')
tokens, exits, live = run(
    prompts['prompt_BxC'], prompts['length_B'], np.uint32(7))
np.savez(folder + '/found.npz', tokens=tokens, exits=exits, live=live)
"""


STACK = tiny.stack(readouts=(1, 2, 4))
CORE = tiny.refine(
  num_layers=1,
  prelude=1,
  coda=1,
  inject='concat',
  carry_init='input',
  carry_norm=True,
)


@pytest.mark.parametrize(
  'model, signal, policy, thresholds',
  [
    (STACK, 'max_prob', 'copy_state', (0.55, 0.6, np.inf)),
    (STACK, 'max_prob', 'recompute', (0.55, 0.6, np.inf)),
    (CORE, 'state_change', 'latest', (np.inf, -1.2, np.inf)),
  ],
  ids=['copy_state', 'recompute', 'core'],
)
def test_the_file_decodes_without_the_source(
  model, signal, policy, thresholds, tmp_path
):
  params = tiny.params(model)
  point = OperatingPoint(signal, policy, thresholds)
  options = decode.Options(
    max_new_tokens=12,
    context=LENGTH,
    eos_id=11,
    seed=7,
    sampling=decode.Sampling(1.5),
  )
  (tmp_path / 'decoder.jax').write_bytes(
    decode.exported(model, params, point, options=options, batch_size=2)
  )
  prompt_BxC = np.zeros((2, LENGTH), np.int32)
  for row, prompt in zip(prompt_BxC, PROMPTS):
    row[-len(prompt) :] = prompt
  np.savez(
    tmp_path / 'prompts.npz',
    prompt_BxC=prompt_BxC,
    length_B=np.asarray([len(p) for p in PROMPTS], np.int32),
  )
  subprocess.run(
    [sys.executable, '-c', ALONE, str(tmp_path)], check=True, cwd=tmp_path
  )
  found = np.load(tmp_path / 'found.npz')
  texts, _ = decode.generate(
    model, {'params': params}, PROMPTS, point, options=options
  )
  for b, text in enumerate(texts):
    live = found['live'][b]
    new = text.tokens[len(PROMPTS[b]) :]
    np.testing.assert_array_equal(found['tokens'][b][live], new)
    np.testing.assert_array_equal(found['exits'][b][live], text.exits)
  assert len(np.unique(np.concatenate([t.exits for t in texts]))) > 1


def test_a_window_longer_than_the_context_fits():
  model = tiny.stack(readouts=(1, 2, 4))
  params = tiny.params(model)
  point = OperatingPoint('max_prob', 'recompute', (0.4, 0.5, np.inf))
  options = decode.Options(max_new_tokens=70, context=8)
  run = jax.export.deserialize(
    bytearray(decode.exported(model, params, point, options=options))
  ).call
  _, exits, _ = run(
    np.asarray([[0] * 7 + [3]], np.int32), np.ones(1, np.int32), np.uint32(0)
  )
  (text,), _ = decode.generate(
    model, {'params': params}, [[3]], point, options=options
  )
  np.testing.assert_array_equal(exits[0], text.exits)  # no more than may come


def test_what_cannot_be_decoded_is_not_exported():
  with pytest.raises(config.ConfigError, match='copy_kv'):
    decode.exported(
      tiny.stack(),
      {},
      OperatingPoint('max_prob', 'copy_kv', 0.5),
      options=decode.Options(1, LENGTH),
    )


def test_a_missing_package_is_named(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  model = tiny.stack()
  with pytest.raises(config.ConfigError) as error:
    decode.exported(model, {}, None, options=decode.Options(1, LENGTH))
  assert str(error.value) == (
    'an exported decoder needs the package flatbuffers, which is not '
    "installed; pip install 'ease_jax[export]'"
  )
