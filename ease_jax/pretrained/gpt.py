"""GPT-2: one tensor for queries, keys and values, biases, LayerNorm."""

from ease_jax.pretrained.entries import number
from ease_jax.pretrained.family import Family, Json
from ease_jax.pretrained.fused import Fused

# What an activation without a gate is called here.
UNITS = {'gelu_new': 'gelu', 'gelu_pytorch_tanh': 'gelu', 'gelu_fast': 'gelu'}
_FIXED = {
  'block.norm': 'pre',
  'block.norm_kind': 'layer',
  'block.attention.qkv_bias': True,
  'block.attention.out_bias': True,
  'block.attention.qk_norm': 'none',
  'block.mlp.bias': True,
}


def _gpt2(said: Json, where: object) -> dict[str, object]:
  """The width of its MLP, which it may leave out."""
  inner = 4 * said['hidden_size']
  if 'n_inner' in said:
    inner = number(said, 'n_inner', where)
  return {'block.mlp.dim': inner}


def _module(ours: str, theirs: str) -> dict[str, str]:
  """A matrix, or scales, and biases."""
  kind = 'scale' if 'norm' in ours else 'kernel'
  return {
    f'{ours}/{kind}': f'{theirs}.weight',
    f'{ours}/bias': f'{theirs}.bias',
  }


GPT2 = Family(
  model_type='gpt2',
  called={
    'num_hidden_layers': 'n_layer',
    'hidden_size': 'n_embd',
    'num_attention_heads': 'n_head',
    'max_position_embeddings': 'n_positions',
  },
  fields={
    'num_hidden_layers': 'num_layers',
    'hidden_size': 'dim',
    'num_attention_heads': 'block.attention.num_heads',
    'max_position_embeddings': 'positions',
    'layer_norm_epsilon': 'block.epsilon',
  },
  fixed=_FIXED | {'block.attention.rope_share': 0.0, 'block.mlp.kind': 'gelu'},
  defaults={'layer_norm_epsilon': 1e-5},
  accepts={
    'activation_function': tuple(UNITS),
    'scale_attn_weights': (True,),
    'scale_attn_by_inverse_layer_idx': (False,),
    'reorder_and_upcast_attn': (False,),
    'add_cross_attention': (False,),
    'quantization_config': (),
  },
  more=_gpt2,
  prefix='transformer.',
  names={
    'embed': 'transformer.wte.weight',
    'positions': 'transformer.wpe.weight',
    'unembed': 'lm_head.weight',
  }
  | _module('readout_norm', 'transformer.ln_f')
  | _module('layer_/attention_norm', 'transformer.h.{}.ln_1')
  | _module('layer_/query', 'transformer.h.{}.attn.query')
  | _module('layer_/key', 'transformer.h.{}.attn.key')
  | _module('layer_/value', 'transformer.h.{}.attn.value')
  | _module('layer_/out', 'transformer.h.{}.attn.c_proj')
  | _module('layer_/mlp_norm', 'transformer.h.{}.ln_2')
  | _module('layer_/mlp/up', 'transformer.h.{}.mlp.c_fc')
  | _module('layer_/mlp/down', 'transformer.h.{}.mlp.c_proj'),
  turned=False,
  fused=Fused('c_attn', axis=1),
)
