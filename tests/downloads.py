"""Tiny models as other people save them, made of numbers from a seed.

`python tests/downloads.py` makes `golden/pretrained.npz` anew, what torch and
transformers say of the same models; it needs both (extra `reference`). It may
change with the models below, and with nothing else.
"""

import json
import pathlib
import re
import sys
import tempfile

import numpy as np
import tokenizers as hf
from safetensors.numpy import save_file

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'pretrained.npz'
LENGTH = 600
PLACES = (0, 1, 2, 150, 299, 450, 598, 599)  # of which logits are kept
VOCAB = 300  # more rows than there are tokens
SIZES = dict(
  vocab_size=VOCAB,
  hidden_size=48,
  intermediate_size=80,
  num_hidden_layers=3,
  num_attention_heads=4,
  num_key_value_heads=2,
  max_position_embeddings=1024,
  eos_token_id=0,
)
# What the config.json of each says beside the sizes.
CONFIGS = {
  'llama': dict(
    architectures=['LlamaForCausalLM'],
    model_type='llama',
    rms_norm_eps=1e-5,
    rope_parameters=dict(rope_type='default', rope_theta=5e4),
    tie_word_embeddings=False,
  ),
  'llama_tied': dict(
    architectures=['LlamaForCausalLM'],
    model_type='llama',
    rope_theta=5e4,
    tie_word_embeddings=True,
  ),
  'llama3': dict(
    architectures=['LlamaForCausalLM'],
    model_type='llama',
    rope_parameters=dict(
      rope_type='llama3',
      rope_theta=5e2,
      factor=8.0,
      low_freq_factor=1.0,
      high_freq_factor=4.0,
      original_max_position_embeddings=128,
    ),
    tie_word_embeddings=False,
  ),
  'linear': dict(
    architectures=['LlamaForCausalLM'],
    model_type='llama',
    rope_theta=1e4,
    rope_scaling=dict(type='linear', factor=4.0),
    tie_word_embeddings=False,
  ),
  'mistral': dict(
    architectures=['MistralForCausalLM'],
    model_type='mistral',
    sliding_window=80,
    tie_word_embeddings=False,
  ),
  'qwen2': dict(
    architectures=['Qwen2ForCausalLM'],
    model_type='qwen2',
    rms_norm_eps=1e-6,
    use_sliding_window=False,
    sliding_window=8,
    tie_word_embeddings=False,
  ),
  'qwen3': dict(
    architectures=['Qwen3ForCausalLM'],
    model_type='qwen3',
    rms_norm_eps=1e-6,
    head_dim=16,
    use_sliding_window=True,
    sliding_window=120,
    max_window_layers=0,
    tie_word_embeddings=True,
  ),
  'gemma3': dict(
    architectures=['Gemma3ForCausalLM'],
    model_type='gemma3_text',
    rms_norm_eps=1e-6,
    head_dim=16,
    query_pre_attn_scalar=16,
    hidden_activation='gelu_pytorch_tanh',
    sliding_window=96,
    layer_types=['sliding_attention', 'full_attention', 'sliding_attention'],
    rope_parameters=dict(
      full_attention=dict(rope_type='default', rope_theta=1e6),
      sliding_attention=dict(rope_type='default', rope_theta=1e2),
    ),
    tie_word_embeddings=True,
  ),
  'olmo2': dict(
    architectures=['Olmo2ForCausalLM'],
    model_type='olmo2',
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
  ),
  'gemma2': dict(
    architectures=['Gemma2ForCausalLM'],
    model_type='gemma2',
    rms_norm_eps=1e-6,
    head_dim=16,
    query_pre_attn_scalar=24,
    hidden_act='gelu_pytorch_tanh',
    hidden_activation='gelu_pytorch_tanh',
    attn_logit_softcapping=0.5,
    final_logit_softcapping=2.0,
    sliding_window=100,
    tie_word_embeddings=True,
  ),
  'gpt2': dict(
    architectures=['GPT2LMHeadModel'],
    model_type='gpt2',
    activation_function='gelu_new',
    n_inner=None,
  ),
  'neox': dict(
    architectures=['GPTNeoXForCausalLM'],
    model_type='gpt_neox',
    hidden_size=64,
    hidden_act='gelu',
    rotary_pct=0.25,
    rotary_emb_base=500,
    use_parallel_residual=True,
    tie_word_embeddings=False,
  ),
  'neox_serial': dict(
    architectures=['GPTNeoXForCausalLM'],
    model_type='gpt_neox',
    hidden_act='gelu_new',
    attention_bias=False,
    rope_parameters=dict(
      rope_type='default', rope_theta=1e3, partial_rotary_factor=0.5
    ),
    use_parallel_residual=False,
    tie_word_embeddings=False,
  ),
}
# How families call the sizes that they call otherwise.
GPT2_SIZES = {
  'hidden_size': 'n_embd',
  'num_hidden_layers': 'n_layer',
  'num_attention_heads': 'n_head',
  'max_position_embeddings': 'n_positions',
}
# The first layer's second norm, where it is not Llama's.
SECOND_NORMS = {
  'gpt2': 'transformer.h.0.ln_2.weight',
  'neox': 'gpt_neox.layers.0.post_attention_layernorm.weight',
  'neox_serial': 'gpt_neox.layers.0.post_attention_layernorm.weight',
}


def said(family):
  """The whole config.json of a family's model."""
  sizes = dict(SIZES)
  if family == 'gpt2' or 'neox' in family:
    del sizes['num_key_value_heads']
  if family == 'gpt2':
    del sizes['intermediate_size']
    sizes = {GPT2_SIZES.get(name, name): size for name, size in sizes.items()}
  return sizes | CONFIGS[family]


def shapes(family):
  """Shapes of its tensors, as transformers names and orders them."""
  c = said(family)
  if family == 'gpt2':
    return gpt2_shapes(c)
  if 'neox' in family:
    return neox_shapes(c)
  dim, inner = c['hidden_size'], c['intermediate_size']
  heads = c['num_attention_heads']
  head_dim = c.get('head_dim', dim // heads)
  q_dim, kv_dim = heads * head_dim, c['num_key_value_heads'] * head_dim

  layer = {
    'self_attn.q_proj.weight': (q_dim, dim),
    'self_attn.k_proj.weight': (kv_dim, dim),
    'self_attn.v_proj.weight': (kv_dim, dim),
    'self_attn.o_proj.weight': (dim, q_dim),
    'mlp.gate_proj.weight': (inner, dim),
    'mlp.up_proj.weight': (inner, dim),
    'mlp.down_proj.weight': (dim, inner),
    'post_attention_layernorm.weight': (dim,),
  }
  if family == 'olmo2':
    layer['post_feedforward_layernorm.weight'] = (dim,)
    layer['self_attn.q_norm.weight'] = (q_dim,)
    layer['self_attn.k_norm.weight'] = (kv_dim,)
  else:
    layer['input_layernorm.weight'] = (dim,)
  if family == 'qwen2':
    layer['self_attn.q_proj.bias'] = (q_dim,)
    layer['self_attn.k_proj.bias'] = (kv_dim,)
    layer['self_attn.v_proj.bias'] = (kv_dim,)
  if family.startswith('gemma'):
    layer['pre_feedforward_layernorm.weight'] = (dim,)
    layer['post_feedforward_layernorm.weight'] = (dim,)
  if family in ('qwen3', 'gemma3'):
    layer['self_attn.q_norm.weight'] = (head_dim,)
    layer['self_attn.k_norm.weight'] = (head_dim,)

  whole = {
    'model.embed_tokens.weight': (VOCAB, dim),
    'model.norm.weight': (dim,),
  }
  for i in range(c['num_hidden_layers']):
    whole |= {f'model.layers.{i}.{name}': layer[name] for name in layer}
  if not c['tie_word_embeddings']:
    whole['lm_head.weight'] = (VOCAB, dim)
  return whole


def both(name, shape):
  """A matrix or scales, and biases."""
  return {f'{name}.weight': shape, f'{name}.bias': shape[-1:]}


def gpt2_shapes(c):
  """GPT-2's matrices lie the other way round."""
  dim = c['n_embd']
  whole = {
    'wte.weight': (VOCAB, dim),
    'wpe.weight': (c['n_positions'], dim),
    **both('ln_f', (dim,)),
  }
  for i in range(c['n_layer']):
    layer = {
      **both('ln_1', (dim,)),
      **both('ln_2', (dim,)),
      **both('attn.c_attn', (dim, 3 * dim)),
      **both('attn.c_proj', (dim, dim)),
      **both('mlp.c_fc', (dim, 4 * dim)),
      **both('mlp.c_proj', (4 * dim, dim)),
    }
    whole |= {f'h.{i}.{name}': shape for name, shape in layer.items()}
  return {f'transformer.{name}': shape for name, shape in whole.items()}


def neox_shapes(c):
  """Each head has its query, key and value side by side."""
  dim, inner = c['hidden_size'], c['intermediate_size']
  whole = {
    'embed_out.weight': (VOCAB, dim),
    'gpt_neox.embed_in.weight': (VOCAB, dim),
    **both('gpt_neox.final_layer_norm', (dim,)),
  }
  layer = {
    **both('input_layernorm', (dim,)),
    **both('post_attention_layernorm', (dim,)),
    'attention.query_key_value.weight': (3 * dim, dim),
    'attention.dense.weight': (dim, dim),
    'mlp.dense_h_to_4h.weight': (inner, dim),
    'mlp.dense_4h_to_h.weight': (dim, inner),
    'mlp.dense_h_to_4h.bias': (inner,),
    'mlp.dense_4h_to_h.bias': (dim,),
  }
  if c.get('attention_bias', True):
    layer['attention.query_key_value.bias'] = (3 * dim,)
    layer['attention.dense.bias'] = (dim,)
  for i in range(c['num_hidden_layers']):
    whole |= {f'gpt_neox.layers.{i}.{name}': layer[name] for name in layer}
  return whole


def weights(family):
  """Its tensors, float32; no norm is just one and no bias nothing."""
  rng = np.random.default_rng(list(family.encode()))
  tensors = {}
  for name, shape in shapes(family).items():
    drawn = rng.standard_normal(shape, np.float32)
    if re.search(r'(norm|ln_.)\.weight$', name):
      tensors[name] = (not family.startswith('gemma')) + 0.3 * drawn
    elif len(shape) == 1:
      tensors[name] = 0.3 * drawn
    else:
      tensors[name] = drawn * shape[-1] ** -0.5
  return tensors


def tokens():
  """[1, LENGTH] int32."""
  rng = np.random.default_rng(7)
  return rng.integers(1, 256, (1, LENGTH)).astype(np.int32)


def byte_level():
  """A tokenizer of the 256 bytes and an end, as GPT-2's has them."""
  alphabet = sorted(hf.pre_tokenizers.ByteLevel.alphabet())
  vocab = {'<|end|>': 0} | {c: i for i, c in enumerate(alphabet, 1)}
  tokenizer = hf.Tokenizer(hf.models.BPE(vocab, []))
  tokenizer.add_special_tokens(['<|end|>'])
  tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = hf.decoders.ByteLevel()
  return tokenizer


def write(folder, family, **changes):
  """Writes the folder of a model.

  Args:
    folder: made when missing.
    family: a key of CONFIGS.
    **changes: entries of config.json that are others.
  """
  folder.mkdir(parents=True, exist_ok=True)
  config = json.dumps(said(family) | changes)
  (folder / 'config.json').write_text(config)
  save_file(weights(family), folder / 'model.safetensors', {'format': 'pt'})
  byte_level().save(str(folder / 'tokenizer.json'))
  return folder


def reference(folder, family):
  """What transformers makes of a folder: logits [LENGTH, V], a gradient [D].

  The gradient is that of the mean loss by the first layer's second norm.
  """
  import torch
  import transformers

  model, notes = transformers.AutoModelForCausalLM.from_pretrained(
    folder, output_loading_info=True, attn_implementation='eager'
  )
  assert not notes['missing_keys'], notes
  assert not notes['unexpected_keys'], notes
  token_1xT = torch.tensor(tokens(), dtype=torch.long)
  found = model(token_1xT, labels=token_1xT)
  found.loss.backward()
  llamas = 'model.layers.0.post_attention_layernorm.weight'
  scale = dict(model.named_parameters())[SECOND_NORMS.get(family, llamas)]
  return found.logits[0].detach().numpy(), scale.grad.numpy()


def main():
  kept = {}
  for family in CONFIGS:
    with tempfile.TemporaryDirectory() as folder:
      place = write(pathlib.Path(folder), family)
      logits_TxV, gradient_D = reference(place, family)
    kept[f'{family}/logits'] = logits_TxV[list(PLACES)]
    kept[f'{family}/gradient'] = gradient_D
  GOLDEN.parent.mkdir(exist_ok=True)
  np.savez_compressed(GOLDEN, **kept)
  print(f'{GOLDEN}: {GOLDEN.stat().st_size:,} bytes', file=sys.stderr)


if __name__ == '__main__':
  main()
