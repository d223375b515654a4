"""Tokenizers: what goes in comes out, also after saving."""

import numpy as np
import pytest

from ease_jax import data
from ease_jax.checks import ConfigError
from ease_jax.data import tokenizers

UNICODE = 'def f(x): return "naïve €5 — 日本語 🤖"\r\n\t'


@pytest.mark.parametrize('kind', ['byte', 'char', 'bpe'])
def test_round_trip_survives_saving(kind, tmp_path):
  path = tmp_path / 'tokenizer.json'
  fitted = tokenizers.fit(kind, [UNICODE, 'some more text'], 400)
  tokenizers.save(fitted, path)
  assert list(tmp_path.iterdir()) == [path]
  loaded = data.load_tokenizer(path)
  assert loaded.name == kind
  for tokenizer in fitted, loaded:
    ids = tokenizer.encode(UNICODE)
    assert ids.dtype == np.int32
    assert ids.ndim == 1
    assert ids.max() < tokenizer.vocab_size
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == UNICODE
    assert tokenizer.token_bytes[ids].sum() == len(UNICODE.encode())
    assert tokenizer.token_bytes.shape == (tokenizer.vocab_size,)
    assert tokenizer.token_bytes[tokenizer.eos_id] == 1
  np.testing.assert_array_equal(fitted.encode(UNICODE), loaded.encode(UNICODE))


@pytest.mark.parametrize('kind', ['byte', 'char', 'bpe'])
def test_eos_is_no_text(kind):
  tokenizer = tokenizers.fit(kind, ['ab<eos>'], 300)
  a = tokenizer.encode('a')[0]
  b = tokenizer.encode('b')[0]
  assert tokenizer.decode(np.array([a, tokenizer.eos_id, b])) == 'ab'
  assert tokenizer.token_text(tokenizer.eos_id) == '<eos>'
  assert tokenizer.token_text(int(a)) == 'a'
  # A text that spells the separator does not become one.
  ids = tokenizer.encode('<eos>')
  assert tokenizer.eos_id not in ids
  assert tokenizer.decode(ids) == '<eos>'


def test_bytes_that_are_no_text_are_replaced():
  assert tokenizers.Byte().decode([0xC3, 0x41]) == '\ufffdA'
  assert tokenizers.Byte().token_text(0xC3) == '\\xc3'


@pytest.mark.parametrize(
  'content',
  [
    b'',
    b'{',
    b'[]',
    b'{"name": "word"}',
    b'{"name": "char"}',
    b'{"model": {}}',
    b'\xff',
  ],
)
def test_a_damaged_tokenizer_is_named(content, tmp_path):
  path = tmp_path / 'tokenizer.json'
  path.write_bytes(content)
  with pytest.raises(ConfigError) as caught:
    data.load_tokenizer(path)
  assert str(caught.value) == (
    f'{path} is damaged; restore it or train in a new folder'
  )


def test_a_missing_tokenizer_is_named(tmp_path):
  with pytest.raises(ConfigError) as caught:
    data.load_tokenizer(tmp_path / 'tokenizer.json')
  assert str(caught.value) == (
    f'{tmp_path}/tokenizer.json is missing; give the folder of a trained model'
  )


def test_a_vocabulary_is_known_by_its_tokens():
  def of(kind, text):
    return tokenizers.vocabulary(tokenizers.fit(kind, [text], 270))

  assert of('char', 'abc') == of('char', 'cab')
  assert of('char', 'abc')['vocab_size'] == of('char', 'abd')['vocab_size']
  assert of('char', 'abc') != of('char', 'abd')
  assert of('byte', 'abc') == of('byte', 'abd')
  text = 'the cat sat on the mat ' * 9
  assert of('bpe', text) == of('bpe', text) != of('bpe', text[::-1])
