"""Imported models: equal to transformers, and errors of one line."""

import functools
import importlib.util
import json
import random

import downloads
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import small_run
import tokenizers as hf
from safetensors.numpy import load_file, save_file

from ease_jax import decode, deploy, exporting, importing, specs
from ease_jax import run as run_lib
from ease_jax import workdir as folders
from ease_jax.checks import ConfigError
from ease_jax.data import load_tokenizer, tokenizers
from ease_jax.data.corpus import Corpus
from ease_jax.data.pretrained import Pretrained
from ease_jax.data.task import LanguageModelling
from ease_jax.data.tokenizers import prompt_tokens
from ease_jax.decode.text import Speech
from ease_jax.pretrained import Source
from ease_jax.train.paths import leaves

# What transformers calls post_attention_layernorm.
SECOND_NORMS = {
  'olmo2': 'attention_norm',
  'gemma2': 'attention_out_norm',
  'gemma3': 'attention_out_norm',
}
every_family = pytest.mark.parametrize('family', downloads.CONFIGS)


def imported(folder, family, **changes):
  """The run of a family's model, imported."""
  origin = downloads.write(folder / 'download', family, **changes)
  run = folder / 'run'
  importing.import_model(str(origin), str(run), context=64)
  return deploy.load_model(folders.read_config(run), run)


@pytest.fixture(scope='module')
def folder_of(tmp_path_factory):
  """Folder of a family's download and run, made once."""

  @functools.cache
  def made(family):
    folder = tmp_path_factory.mktemp(family)
    imported(folder, family)
    return folder

  return made


def loaded(run):
  """The model of a run."""
  return deploy.load_model(folders.read_config(run), run)


def logits(trained, token_BxT):
  """[T, V] of the last readout."""
  every = trained.model.apply({'params': trained.params}, token_BxT)
  return np.asarray(every)[-1, 0]


@every_family
def test_logits_are_those_of_transformers(folder_of, family):
  trained = loaded(folder_of(family) / 'run')
  got_TxV = logits(trained, downloads.tokens())

  golden = np.load(downloads.GOLDEN)[f'{family}/logits']
  np.testing.assert_allclose(
    got_TxV[list(downloads.PLACES)], golden, rtol=0, atol=1e-4
  )


@every_family
def test_a_gradient_is_that_of_transformers(folder_of, family):
  trained = loaded(folder_of(family) / 'run')
  tokens = downloads.tokens()
  name = SECOND_NORMS.get(family, 'mlp_norm')

  def loss(scale_D):
    layer = dict(trained.params['layer_0'])
    layer[name] = layer[name] | {'scale': scale_D}
    params = trained.params | {'layer_0': layer}
    logits_TxV = trained.model.apply({'params': params}, tokens)[-1, 0]
    log_p = jax.nn.log_softmax(logits_TxV[:-1])
    return -jnp.take_along_axis(log_p, tokens[0, 1:, None], 1).mean()

  got_D = jax.grad(loss)(trained.params['layer_0'][name]['scale'])
  golden_D = np.load(downloads.GOLDEN)[f'{family}/gradient']
  np.testing.assert_allclose(got_D, golden_D, rtol=1e-3, atol=1e-5)


with_transformers = pytest.mark.skipif(
  not all(map(importlib.util.find_spec, ('torch', 'transformers'))),
  reason="torch and transformers (pip install -e '.[reference]') are not there",
)


@with_transformers
@every_family
def test_golden_numbers_are_those_of_the_transformers_here(tmp_path, family):
  logits_TxV, gradient_D = downloads.reference(
    downloads.write(tmp_path, family), family
  )
  golden = np.load(downloads.GOLDEN)
  np.testing.assert_allclose(
    logits_TxV[list(downloads.PLACES)],
    golden[f'{family}/logits'],
    rtol=0,
    atol=1e-4,
  )
  np.testing.assert_allclose(
    gradient_D, golden[f'{family}/gradient'], rtol=1e-3, atol=1e-5
  )


def test_a_run_says_what_the_model_is(tmp_path):
  trained = imported(tmp_path, 'qwen3')

  config = folders.read_config(tmp_path / 'run')
  attention = config.model.block.attention
  assert attention.qk_norm == 'head'
  assert attention.head_dim == 16
  assert config.model.tie_embeddings
  assert trained.model.grid.num_readouts == 3
  # Nothing that is never updated has moments.
  run_specs = specs.from_config(config, downloads.VOCAB)
  shapes = leaves(
    deploy.abstract_state(run_specs.body, run_specs.optimizer).opt_state
  )
  assert all(x.ndim == 0 for x in shapes.values())
  assert run_specs.train_flops == 0


def test_half_precision_is_kept_to_the_bit(tmp_path):
  origin = downloads.write(tmp_path, 'llama')
  path = origin / 'model.safetensors'
  name = 'model.layers.1.mlp.up_proj.weight'
  half = load_file(path)[name].astype(ml_dtypes.bfloat16)
  save_file(load_file(path) | {name: half}, path)

  importing.import_model(str(origin), str(tmp_path / 'run'), 64)
  run = tmp_path / 'run'
  trained = deploy.load_model(folders.read_config(run), run)
  got = trained.params['layer_1']['mlp']['up']['kernel']
  np.testing.assert_array_equal(got, half.astype(np.float32).T)


def in_two_files(origin):
  """Splits a model's file and writes the index; returns it."""
  tensors = load_file(origin / 'model.safetensors')
  (origin / 'model.safetensors').unlink()
  names = sorted(tensors)
  files = {'a.safetensors': names[::2], 'b.safetensors': names[1::2]}
  for file, some in files.items():
    save_file({name: tensors[name] for name in some}, origin / file)
  places = {name: file for file, some in files.items() for name in some}
  index = origin / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': places}))
  return index


def test_two_files_are_one_model(tmp_path):
  one = imported(tmp_path / 'one', 'qwen2')
  origin = downloads.write(tmp_path / 'two', 'qwen2')
  in_two_files(origin)
  importing.import_model(str(origin), str(tmp_path / 'run'), 64)
  run = tmp_path / 'run'
  two = deploy.load_model(folders.read_config(run), run)
  jax.tree.map(np.testing.assert_array_equal, one.params, two.params)


def test_names_without_their_prefix_are_the_same_model(folder_of, tmp_path):
  """As the files of GPT-2 itself are, with a mask in each layer."""
  origin = downloads.write(tmp_path / 'download', 'gpt2')

  def bare(tensors):
    mask = np.ones((1, 1, 4, 4), np.float32)
    masks = {f'h.{i}.attn.bias': mask for i in range(3)}
    names = {name: name.removeprefix('transformer.') for name in tensors}
    return masks | {names[name]: tensors[name] for name in tensors}

  changed(origin, bare)
  importing.import_model(str(origin), str(tmp_path / 'run'), 64)
  one = loaded(folder_of('gpt2') / 'run')
  two = loaded(tmp_path / 'run')
  jax.tree.map(np.testing.assert_array_equal, one.params, two.params)


def test_thirds_of_a_tensor_must_be_whole_heads(tmp_path):
  origin = downloads.write(tmp_path / 'download', 'gpt2')
  name = 'transformer.h.1.attn.c_attn.bias'
  changed(origin, with_tensor(name, (100,)))
  with pytest.raises(
    ConfigError, match=r'c_attn.bias of shape \(100,\).* 4 heads'
  ):
    importing.import_model(str(origin), str(tmp_path / 'run'), 64)


def test_a_window_longer_than_the_positions_is_refused(tmp_path):
  origin = downloads.write(tmp_path / 'download', 'gpt2')
  with pytest.raises(ConfigError, match='--context=1025 .* 1024'):
    importing.import_model(str(origin), str(tmp_path / 'run'), 1025)


def changed(origin, change):
  """Rewrites the tensors of a model; `change` gets and returns a dict."""
  path = origin / 'model.safetensors'
  save_file(change(load_file(path)), path)


def without(name):
  def change(tensors):
    return {other: tensors[other] for other in tensors if other != name}

  return change


def with_tensor(name, shape):
  def change(tensors):
    return tensors | {name: np.zeros(shape, np.float32)}

  return change


NORM = 'model.layers.2.input_layernorm.weight'
FAULTS = {
  'architecture': (
    dict(architectures=['BertModel']),
    None,
    ('BertModel', 'Olmo2ForCausalLM'),
  ),
  'activation': (dict(hidden_act='relu'), None, ('hidden_act', 'relu')),
  'scaling': (
    dict(rope_parameters={'rope_type': 'yarn', 'rope_theta': 1e4}),
    None,
    ('rotary', 'yarn'),
  ),
  'context': (dict(max_position_embeddings=32), None, ('=64', '32')),
  'end': (dict(eos_token_id=None), None, ('eos_token_id=None',)),
  'end beyond': (dict(eos_token_id=300), None, ('300', 'embedding')),
  'size': (dict(hidden_size=50), None, ('embed_tokens', '(300, 50)')),
  'rows': (dict(vocab_size=7), None, ('vocab_size=7', '300 rows')),
  'text for a number': (dict(hidden_size='48'), None, ("hidden_size='48'",)),
  'layers': (dict(layer_types=['full_attention']), None, ('layer_types', '3')),
  'quantized': (
    dict(quantization_config={'bits': 4}),
    None,
    ('quantization_config', 'can not'),
  ),
  'scaling without a kind': (
    dict(rope_scaling={'factor': 8.0}),
    None,
    ('rotary', 'llama3'),
  ),
  'part of a head': (
    dict(
      rope_parameters={'rope_type': 'default', 'partial_rotary_factor': 0.5}
    ),
    None,
    ('partial_rotary_factor', '0.5'),
  ),
  'missing': ({}, without(NORM), ('lacks', NORM)),
  'left over': ({}, with_tensor('model.extra', (3,)), ('model.extra',)),
  'shape': ({}, with_tensor(NORM, (3,)), (NORM, '(3,)', '(48,)')),
  'no head': ({}, without('lm_head.weight'), ('lm_head', 'tie_word')),
  'no embedding': ({}, without('model.embed_tokens.weight'), ('embed_tokens',)),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_what_cannot_be_had_is_refused_in_a_line(tmp_path, fault):
  entries, change, words = FAULTS[fault]
  origin = downloads.write(tmp_path / 'download', 'llama', **entries)
  if change is not None:
    changed(origin, change)

  with pytest.raises(ConfigError) as error:
    importing.import_model(str(origin), str(tmp_path / 'run'), 64)
  for word in words:
    assert word in str(error.value)
  assert not (tmp_path / 'run').exists()


def leave_a_pickle(origin):
  (origin / 'model.safetensors').rename(origin / 'pytorch_model.bin')


def lose_a_shard(origin):
  in_two_files(origin)
  (origin / 'b.safetensors').unlink()


def point_elsewhere(origin):
  index = in_two_files(origin)
  places = json.loads(index.read_text())['weight_map']
  moved = {name: '../b.safetensors' for name in places}
  index.write_text(json.dumps({'weight_map': moved}))


def break_the_index(origin):
  in_two_files(origin).write_text('{')


def lose_the_index(origin):
  in_two_files(origin).unlink()


def lose_the_tokenizer(origin):
  (origin / 'tokenizer.json').unlink()


def break_the_tokenizer(origin):
  (origin / 'tokenizer.json').write_text('{}')


def break_the_config(origin):
  (origin / 'config.json').write_text('[1')


def cut_the_weights(origin):
  path = origin / 'model.safetensors'
  path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
  leave_a_pickle: ('pytorch_model.bin', 'pickle'),
  lose_a_shard: ('b.safetensors', 'missing'),
  point_elsewhere: ('../b.safetensors', 'beside'),
  break_the_index: ('index.json', 'damaged'),
  lose_the_index: ('has 2 *.safetensors', 'index.json'),
  lose_the_tokenizer: ('tokenizer.json', 'missing'),
  break_the_tokenizer: ('tokenizer of', 'damaged'),
  break_the_config: ('config.json', 'damaged'),
  cut_the_weights: ('model.safetensors', 'damaged'),
}


@pytest.mark.parametrize('damage', DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_download_is_refused_in_a_line(tmp_path, damage):
  origin = downloads.write(tmp_path / 'download', 'llama')
  damage(origin)
  with pytest.raises(ConfigError) as error:
    importing.import_model(str(origin), str(tmp_path / 'run'), 64)
  for word in DAMAGES[damage]:
    assert word in str(error.value)
  assert not (tmp_path / 'run').exists()


def test_any_header_is_read_or_refused(tmp_path):
  """Sizes, offsets and types that lie: no other error, and no other numbers."""
  origin = downloads.write(tmp_path, 'llama_tied')
  path = origin / 'model.safetensors'
  good = path.read_bytes()
  size = int.from_bytes(good[:8], 'little')
  shapes = Source.at(origin).tensors.shapes
  rng = random.Random(0)
  refused = 0

  for _ in range(300):
    bad = bytearray(good)
    for _ in range(rng.randint(1, 3)):
      bad[rng.randrange(8 + size)] = rng.choice(b'0123456789-"{}[],:FBIx\0\xff')
    path.write_bytes(bad[: rng.choice((len(bad), rng.randrange(len(bad))))])
    try:
      tensors = Source.at(origin).tensors
      for name, tensor in tensors.read(list(tensors.shapes)):
        assert tensor.shape == tensors.shapes[name]
    except ConfigError as error:
      assert '\n' not in str(error).strip()
      refused += 1
    else:
      assert sum(map(np.prod, tensors.shapes.values())) <= sum(
        map(np.prod, shapes.values())
      )
  assert refused > 200


ODD = (None, -1, 0, 2.5, 1e400, True, '48', 'yarn', [], [['a']], {}, {'a': 1})


@pytest.mark.parametrize(
  'family', ('llama3', 'gemma2', 'gemma3', 'gpt2', 'neox')
)
def test_any_entry_is_read_or_refused(tmp_path, family):
  """Entries of other types: no other error."""
  origin = downloads.write(tmp_path, family)
  names = [*downloads.said(family), 'rope_scaling', 'rope_parameters']
  for name in names:
    for value in ODD:
      entries = downloads.said(family) | {name: value}
      (origin / 'config.json').write_text(json.dumps(entries))
      try:
        source = Source.at(origin)
        _ = source.model_fields, source.said.context, source.said.eos_ids
        _ = source.vocab_size
        importing.config_of(source, 64)
      except ConfigError as error:
        assert '\n' not in str(error)


def test_a_copy_of_the_embedding_is_left_out_only_if_it_is_one(tmp_path):
  origin = downloads.write(tmp_path / 'download', 'llama_tied')
  tensors = load_file(origin / 'model.safetensors')
  embed = tensors['model.embed_tokens.weight']
  path = origin / 'model.safetensors'

  save_file(tensors | {'lm_head.weight': embed}, path)
  importing.import_model(str(origin), str(tmp_path / 'run'), 64)
  save_file(tensors | {'lm_head.weight': embed + 1}, path)
  with pytest.raises(ConfigError, match='lm_head.weight'):
    importing.import_model(str(origin), str(tmp_path / 'other'), 64)


def test_a_directory_with_a_run_is_left_alone(tmp_path):
  imported(tmp_path, 'llama')
  with pytest.raises(ConfigError, match='has a run already'):
    imported(tmp_path, 'llama')


# -------------------------------------------------------------- its tokenizer


def beginning():
  """A tokenizer that begins every text, as Llama 2's does."""
  tokenizer = downloads.byte_level()
  tokenizer.add_special_tokens(['<s>'])
  begin = tokenizer.token_to_id('<s>')
  tokenizer.post_processor = hf.processors.TemplateProcessing(
    single='<s> $A', special_tokens=[('<s>', begin)]
  )
  return Pretrained(tokenizer.to_str(), 0, downloads.VOCAB), begin


def test_a_tokenizer_is_itself_after_it_was_saved(tmp_path):
  made, begin = beginning()
  tokenizers.save(made, tmp_path / 'tokenizer.json')
  saved_again = load_tokenizer(tmp_path / 'tokenizer.json')
  text = 'Ünï <|end|> code\n'
  for tokenizer in (made, saved_again):
    assert tokenizer.bos_id == begin
    assert tokenizer.eos_id == 0
    assert tokenizer.vocab_size == downloads.VOCAB
    tokens = tokenizer.encode(text)
    assert 0 not in tokens  # a text that spells a special token is a text
    assert tokenizer.decode(tokens) == text
    assert prompt_tokens(tokenizer, 'a') == [begin, *tokenizer.encode('a')]
    size = tokenizer.token_bytes[tokens].sum()
    assert size == len(text.encode())


def test_sentence_pieces_have_their_size_in_bytes():
  vocab = {'<unk>': 0, '</s>': 1, '<0xC3>': 2, '\u2581day': 3, '\u00e4': 4}
  whole = hf.Tokenizer(hf.models.BPE(vocab, [], unk_token='<unk>'))
  whole.add_special_tokens(['<unk>', '</s>'])
  tokenizer = Pretrained(whole.to_str(), 1, 7)
  assert tokenizer.token_bytes.tolist() == [1, 1, 1, 4, 2, 1, 1]


def test_words_that_go_on_keep_their_space():
  """Llama 2's tokenizer drops the space before a text."""
  vocab = {'<unk>': 0, '</s>': 1, '\u2581a': 2, '\u2581day': 3}
  whole = hf.Tokenizer(hf.models.BPE(vocab, [], unk_token='<unk>'))
  whole.decoder = hf.decoders.Sequence(
    [
      hf.decoders.Replace('\u2581', ' '),
      hf.decoders.Fuse(),
      hf.decoders.Strip(' ', 1, 0),
    ]
  )
  tokenizer = Pretrained(whole.to_str(), 1, 4)
  speech = Speech(tokenizer, [2])
  assert [speech.say(3), speech.say(3)] == [' day', ' day']


def test_windows_begin_as_texts_do(tmp_path):
  tokenizer, begin = beginning()
  text_N = tokenizer.encode('ab' * 20)
  splits = {name: text_N for name in ('train', 'select', 'test')}
  task = LanguageModelling(Corpus('text', tokenizer, splits, ''), seq_len=8)
  targets = []
  for batch in task.eval_batches('test', 2):
    real = batch['mask'][:, 0] > 0
    assert (batch['tokens'][real, 0] == begin).all()
    counts = batch['mask'][:, 1:] > 0
    after_the_first = batch['tokens'][:, 1:][counts]
    assert (after_the_first == batch['targets'][:, :-1][counts]).all()
    targets.append(batch['targets'][batch['mask'] > 0])
  # Each token but the first is still a target once.
  np.testing.assert_array_equal(np.concatenate(targets), text_N[1:])
  assert (next(task.train_batches(4, 0))['tokens'][:, 0] == begin).all()


# ------------------------------------------------------------- and back again


def exported(run, place, layers=0):
  exporting.export_model(str(run), str(place), layers)
  return place


def test_null_is_no_window_and_nothing_is_mistrals(tmp_path):
  origin = downloads.write(tmp_path, 'mistral', sliding_window=None)
  field = 'block.attention.window'
  assert Source.at(origin).model_fields[field] == 0

  entries = downloads.said('mistral')
  del entries['sliding_window']
  (origin / 'config.json').write_text(json.dumps(entries))
  assert Source.at(origin).model_fields[field] == 4096


QWENS = {
  'none': (dict(use_sliding_window=False), (0, 0)),
  'all': (dict(max_window_layers=0), (8, 0)),
  'all are below': (dict(max_window_layers=3), (0, 0)),
  'usual': ({}, (0, 0)),
  'kinds': (
    dict(
      layer_types=['sliding_attention', 'full_attention', 'sliding_attention']
    ),
    (8, 2),
  ),
  'some': (dict(max_window_layers=1), None),
}


@pytest.mark.parametrize('case', QWENS)
def test_which_layers_of_a_qwen_are_local(tmp_path, case):
  changes, expected = QWENS[case]
  origin = downloads.write(tmp_path, 'qwen2')
  entries = downloads.said('qwen2') | {'use_sliding_window': True} | changes
  (origin / 'config.json').write_text(json.dumps(entries))
  source = Source.at(origin)
  if expected is None:
    with pytest.raises(ConfigError, match=r'\[True, False, False\]'):
      _ = source.model_fields
    return
  names = ('window', 'global_every')
  fields = source.model_fields
  found = tuple(fields.get(f'block.attention.{name}', 0) for name in names)
  assert found == expected


@every_family
def test_there_and_back_changes_no_bit(tmp_path, folder_of, family):
  run = folder_of(family) / 'run'
  back = exported(run, tmp_path / 'back')

  origin = folder_of(family) / 'download'
  before = load_file(origin / 'model.safetensors')
  after = load_file(back / 'model.safetensors')
  assert before.keys() == after.keys()
  for name, tensor in before.items():
    # Gemma's norms are sums with one here, which drops bits of small numbers.
    is_sum = family.startswith('gemma') and name.endswith('norm.weight')
    rounding = 6e-8 * is_sum
    np.testing.assert_allclose(after[name], tensor, rtol=0, atol=rounding)
  there = json.loads((origin / 'config.json').read_text())
  here = json.loads((back / 'config.json').read_text())
  assert here.items() >= there.items()

  importing.import_model(str(back), str(tmp_path / 'again'), 64)
  once, twice = loaded(run), loaded(tmp_path / 'again')
  jax.tree.map(np.testing.assert_array_equal, once.params, twice.params)


def test_a_model_that_ends_at_a_readout(tmp_path):
  whole = imported(tmp_path, 'qwen3')
  short = exported(tmp_path / 'run', tmp_path / 'short', layers=2)
  importing.import_model(str(short), str(tmp_path / 'again'), 64)
  again = tmp_path / 'again'
  cut = deploy.load_model(folders.read_config(again), again)

  tokens = downloads.tokens()[:, :32]
  every = whole.model.apply({'params': whole.params}, tokens)
  np.testing.assert_array_equal(logits(cut, tokens), every[1, 0])


def own_run(folder, adapters=(), lora_rank=0, **fields):
  """A run of this project with a norm and a gate at each readout."""
  (folder / 'text.txt').write_text(small_run.TEXT)
  c = small_run.make_config(folder / 'text.txt', layers=2)
  c.model.block.mlp.kind = 'swiglu'
  c.model.readout_norm = 'per_readout'
  c.model.readout_adapters = adapters
  c.model.lora_rank = lora_rank
  c.loss.gates = ('gain',)
  c.data.update(fields)
  run_lib.run(c, folder / 'run', 'train')
  return deploy.load_model(c, folder / 'run')


def test_products_beside_matrices_are_merged_into_them(tmp_path):
  ours = own_run(tmp_path, lora_rank=3)
  place = exported(tmp_path / 'run', tmp_path / 'back')
  assert not any(
    'lora' in name for name in load_file(place / 'exits.safetensors')
  )
  importing.import_model(str(place), str(tmp_path / 'again'), context=8)
  token_1xT = ours.tokenizer.encode('the lazy fox')[None]
  np.testing.assert_allclose(
    logits(loaded(tmp_path / 'again'), token_1xT),
    logits(ours, token_1xT),
    rtol=1e-5,
    atol=1e-5,
  )


def test_a_model_of_ours_with_a_window_is_a_mistral_elsewhere(tmp_path):
  (tmp_path / 'text.txt').write_text(small_run.TEXT)
  c = small_run.make_config(tmp_path / 'text.txt', layers=2)
  c.model.block.mlp.kind = 'swiglu'
  c.model.block.attention.window = 5
  run_lib.run(c, tmp_path / 'run', 'train')
  place = exported(tmp_path / 'run', tmp_path / 'back')

  said = json.loads((place / 'config.json').read_text())
  assert said['architectures'] == ['MistralForCausalLM']
  assert said['sliding_window'] == 5
  importing.import_model(str(place), str(tmp_path / 'again'), context=8)
  ours = deploy.load_model(c, tmp_path / 'run')
  again = loaded(tmp_path / 'again')
  token_1xT = ours.tokenizer.encode('the lazy fox')[None]
  np.testing.assert_array_equal(
    logits(again, token_1xT), logits(ours, token_1xT)
  )


@pytest.mark.parametrize(
  'fields',
  ({}, dict(tokenizer='char'), dict(tokenizer='bpe', vocab_size=260)),
  ids=('byte', 'char', 'bpe'),
)
def test_a_model_of_ours_is_a_llama_elsewhere(tmp_path, fields):
  ours = own_run(tmp_path, **fields)
  token_1xT = ours.tokenizer.encode('the lazy fox')[None]
  every = ours.model.apply({'params': ours.params}, token_1xT)

  for layers in (1, 2):
    place = exported(tmp_path / 'run', tmp_path / f'back{layers}', layers)
    theirs = hf.Tokenizer.from_file(str(place / 'tokenizer.json'))
    assert theirs.encode('the lazy fox').ids == token_1xT[0].tolist()
    assert theirs.decode(token_1xT[0].tolist()) == 'the lazy fox'
    said = json.loads((place / 'tokenizer_config.json').read_text())
    assert theirs.token_to_id(said['eos_token']) == ours.tokenizer.eos_id

    again = tmp_path / f'again{layers}'
    importing.import_model(str(place), str(again), context=8)
    trained = deploy.load_model(folders.read_config(again), again)
    np.testing.assert_array_equal(
      logits(trained, token_1xT), every[layers - 1, 0]
    )
    beside = load_file(place / 'exits.safetensors')
    assert any(name.startswith('gate_gain/') for name in beside)
    assert f'readout_norm_{2 - layers}/scale' in beside


def test_what_no_other_tool_has_is_refused(tmp_path):
  (tmp_path / 'text.txt').write_text(small_run.TEXT)
  c = small_run.make_config(tmp_path / 'text.txt')
  run_lib.run(c, tmp_path / 'run', 'train')
  with pytest.raises(ConfigError, match=r"model.block.mlp.kind='gelu' there"):
    exported(tmp_path / 'run', tmp_path / 'back')
  assert not (tmp_path / 'back').exists()


def test_a_readout_with_adapters_is_no_end(tmp_path):
  own_run(tmp_path, ('map',))
  with pytest.raises(ConfigError, match=r"--layers=1 .* \('map',\)"):
    exported(tmp_path / 'run', tmp_path / 'short', layers=1)
  place = exported(tmp_path / 'run', tmp_path / 'whole')
  beside = load_file(place / 'exits.safetensors')
  assert 'readout_adapter_0/map/linear/kernel' in beside


def test_a_layer_without_a_readout_is_no_end(tmp_path):
  own_run(tmp_path)
  with pytest.raises(ConfigError, match=r'--layers=3 .* \[1, 2\]'):
    exported(tmp_path / 'run', tmp_path / 'back', layers=3)
  (tmp_path / 'full').mkdir()
  (tmp_path / 'full' / 'file').touch()
  with pytest.raises(ConfigError, match='has something in it'):
    exported(tmp_path / 'run', tmp_path / 'full')


@with_transformers
@every_family
def test_transformers_loads_what_was_exported(tmp_path, folder_of, family):
  place = exported(folder_of(family) / 'run', tmp_path / 'back')
  logits_TxV, _ = downloads.reference(place, family)
  golden = np.load(downloads.GOLDEN)[f'{family}/logits']
  np.testing.assert_allclose(
    logits_TxV[list(downloads.PLACES)], golden, rtol=0, atol=1e-4
  )


@with_transformers
def test_transformers_says_the_same_and_drafts_with_our_exits(tmp_path):
  """Greedy text, and that of its early-exit drafts, which check themselves."""
  import torch
  import transformers

  ours = imported(tmp_path, 'llama')
  place = exported(tmp_path / 'run', tmp_path / 'back')
  theirs = transformers.AutoModelForCausalLM.from_pretrained(place)
  tokenizer = transformers.AutoTokenizer.from_pretrained(place)

  prompt = tokenizer('what is said ')['input_ids']
  (text,), _ = decode.generate(
    ours.model,
    {'params': ours.params},
    [prompt],
    None,
    options=decode.Options(max_new_tokens=40, context=64, eos_id=0),
  )
  for early in ({}, {'assistant_early_exit': 1}):
    (said,) = theirs.generate(
      torch.tensor([prompt]), max_new_tokens=40, do_sample=False, **early
    )
    assert said.tolist() == text.tokens.tolist()


def test_training_goes_on_from_it_and_knows_where_it_came_from(tmp_path):
  imported(tmp_path, 'llama3')
  (tmp_path / 'text.txt').write_text(small_run.TEXT)
  c = folders.read_config(tmp_path / 'run')
  c.data.update(source='text', path=(str(tmp_path / 'text.txt'),), seq_len=8)
  c.train.update(steps=2, batch_size=2, init_from=str(tmp_path / 'run'))
  run_lib.run(c, tmp_path / 'tuned', 'train')

  tuned = deploy.load_model(c, tmp_path / 'tuned')
  place = exported(tmp_path / 'tuned', tmp_path / 'back')
  said = json.loads((place / 'config.json').read_text())
  assert said['rope_parameters'] == downloads.said('llama3')['rope_parameters']
  importing.import_model(str(place), str(tmp_path / 'again'), context=8)
  again = deploy.load_model(
    folders.read_config(tmp_path / 'again'), tmp_path / 'again'
  )
  token_1xT = downloads.tokens()[:, :16]
  np.testing.assert_array_equal(
    logits(again, token_1xT), logits(tuned, token_1xT)
  )


@pytest.mark.parametrize(
  'field, value',
  [
    ('rope_base', 777.0),
    ('rope_factors', (2.0,) * 6),
  ],
)
def test_what_its_config_would_not_say_is_not_exported(tmp_path, field, value):
  (tmp_path / 'text.txt').write_text(small_run.TEXT)
  imported(tmp_path, 'llama')
  c = folders.read_config(tmp_path / 'run')
  c.data.update(source='text', path=(str(tmp_path / 'text.txt'),), seq_len=8)
  c.train.update(steps=1, batch_size=2, init_from=str(tmp_path / 'run'))
  c.model.block.attention[field] = value
  run_lib.run(c, tmp_path / 'tuned', 'train')
  with pytest.raises(ConfigError, match=f'{field}='):
    exported(tmp_path / 'tuned', tmp_path / 'back')
  assert not (tmp_path / 'back').exists()


def test_a_run_of_ours_that_no_llama_is_stays_here(tmp_path):
  (tmp_path / 'text.txt').write_text(small_run.TEXT)
  c = small_run.make_config(tmp_path / 'text.txt')
  c.model.block.mlp.kind = 'swiglu'
  c.model.embedding_scale = 7.0
  run_lib.run(c, tmp_path / 'run', 'train')
  with pytest.raises(ConfigError, match=r'model.embedding_scale=7.0 here, 1.0'):
    exported(tmp_path / 'run', tmp_path / 'back')


def test_a_new_start_forgets_where_an_earlier_one_came_from(tmp_path):
  (tmp_path / 'run').mkdir()
  origin = tmp_path / 'run' / folders.ORIGIN
  origin.write_text(json.dumps(downloads.said('llama')))
  (tmp_path / 'text.txt').write_text(small_run.TEXT)
  c = small_run.make_config(tmp_path / 'text.txt')
  folders.write_config(c, tmp_path / 'run')
  run_lib.run(c, tmp_path / 'run', 'train')
  assert not origin.exists()


def test_no_window_is_longer_than_the_model_knows(tmp_path):
  imported(tmp_path, 'llama')
  c = folders.read_config(tmp_path / 'run')
  c.data.seq_len = 1025
  said = small_run.refusal(c, tmp_path / 'run', 'evaluate')
  assert 'data.seq_len=1025' in said
  assert '1024' in said


def test_a_run_from_before_there_were_windows_is_not_read_beyond_one(tmp_path):
  imported(tmp_path, 'mistral')
  c = folders.read_config(tmp_path / 'run')
  near = c.model.block.attention.window
  c.data.seq_len = near + 1
  folders.check_context(c, tmp_path / 'run')  # or it raises

  c.model.block.attention.window = 0
  with pytest.raises(ConfigError, match=f'={near + 1} is more than the {near}'):
    folders.check_context(c, tmp_path / 'run')
  c.data.seq_len = near
  folders.check_context(c, tmp_path / 'run')


def test_an_imported_run_is_never_trained_in_its_place(tmp_path):
  imported(tmp_path, 'llama')
  c = folders.read_config(tmp_path / 'run')
  (tmp_path / 'text.txt').write_text(small_run.TEXT)
  c.data.update(source='text', path=(str(tmp_path / 'text.txt'),), seq_len=8)
  assert 'train.steps=0' in small_run.refusal(c, tmp_path / 'run', 'train')
  c.train.steps = 2
  said = small_run.refusal(c, tmp_path / 'run', 'train')
  assert f'train.init_from={tmp_path / "run"}' in said


def test_its_report_is_of_a_model_that_was_not_trained_here(tmp_path):
  imported(tmp_path, 'qwen2')
  c = folders.read_config(tmp_path / 'run')
  (tmp_path / 'text.txt').write_text(small_run.TEXT)
  c.data.update(source='text', path=(str(tmp_path / 'text.txt'),), seq_len=8)
  c.evaluate.update(max_tokens=64, speed_tokens=8)
  c.exit.update(signals=('max_prob',), search_points=0)
  run_lib.run(c, tmp_path / 'run', 'evaluate')
  run_lib.run(None, tmp_path / 'run', 'report')

  results = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert results['train']['steps'] == 0
  assert results['train']['flops'] == 0
  page = (tmp_path / 'run' / 'report.html').read_text()
  assert 'elsewhere: the model was imported' in page
  assert 'training_curves' not in page
