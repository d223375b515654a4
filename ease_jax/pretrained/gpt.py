"""GPT-2 and GPT-NeoX: LayerNorm, biases, queries, keys and values fused."""

from ease_jax.checks import need
from ease_jax.pretrained.entries import flag, number
from ease_jax.pretrained.family import Family, Json
from ease_jax.pretrained.fused import Fused

# What an activation without a gate is called here.
UNITS = {
  'gelu_new': 'gelu',
  'gelu_pytorch_tanh': 'gelu',
  'gelu_fast': 'gelu',
  'gelu': 'gelu_exact',
}
_FIXED = {
  'block.norm': 'pre',
  'block.norm_kind': 'layer',
  'block.attention.qk_norm': 'none',
  'block.mlp.bias': True,
}


def _unit(said: Json, name: str, default: str, where: object) -> str:
  """What an MLP does to each number."""
  unit = said.get(name, default)
  need(
    isinstance(unit, str) and unit in UNITS,
    f'{where} says {name}={unit!r}, and a block can have {" or ".join(UNITS)} '
    'only; import another model',
  )
  return UNITS[unit]


def _gpt2(said: Json, where: object) -> dict[str, object]:
  """Its MLP, whose width it may leave out."""
  inner = 4 * said['hidden_size']
  if 'n_inner' in said:
    inner = number(said, 'n_inner', where)
  return {
    'block.mlp.dim': inner,
    'block.mlp.kind': _unit(said, 'activation_function', 'gelu_new', where),
  }


def _neox(said: Json, where: object) -> dict[str, object]:
  """Where its biases are, and what its MLP is given."""
  bias = flag(said, 'attention_bias', True, where)
  return {
    'block.attention.qkv_bias': bias,
    'block.attention.out_bias': bias,
    'block.mlp.kind': _unit(said, 'hidden_act', 'gelu', where),
    'block.parallel': flag(said, 'use_parallel_residual', True, where),
  }


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
  fixed=_FIXED
  | {
    'block.attention.rope_share': 0.0,
    'block.attention.qkv_bias': True,
    'block.attention.out_bias': True,
  },
  defaults={'layer_norm_epsilon': 1e-5},
  accepts={
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
  made_here=False,
  fused=Fused('c_attn', axis=1),
)

NEOX = Family(
  model_type='gpt_neox',
  called={
    'rope_theta': 'rotary_emb_base',
    'partial_rotary_factor': 'rotary_pct',
  },
  fields={
    'num_hidden_layers': 'num_layers',
    'hidden_size': 'dim',
    'intermediate_size': 'block.mlp.dim',
    'num_attention_heads': 'block.attention.num_heads',
    'layer_norm_eps': 'block.epsilon',
  },
  fixed=_FIXED,
  defaults={'layer_norm_eps': 1e-5, 'partial_rotary_factor': 0.25},
  accepts={'quantization_config': ()},
  more=_neox,
  names={
    'embed': 'gpt_neox.embed_in.weight',
    'unembed': 'embed_out.weight',
  }
  | _module('readout_norm', 'gpt_neox.final_layer_norm')
  | _module('layer_/attention_norm', 'gpt_neox.layers.{}.input_layernorm')
  | _module('layer_/query', 'gpt_neox.layers.{}.attention.query')
  | _module('layer_/key', 'gpt_neox.layers.{}.attention.key')
  | _module('layer_/value', 'gpt_neox.layers.{}.attention.value')
  | _module('layer_/out', 'gpt_neox.layers.{}.attention.dense')
  | _module('layer_/mlp_norm', 'gpt_neox.layers.{}.post_attention_layernorm')
  | _module('layer_/mlp/up', 'gpt_neox.layers.{}.mlp.dense_h_to_4h')
  | _module('layer_/mlp/down', 'gpt_neox.layers.{}.mlp.dense_4h_to_h'),
  partial=True,
  made_here=False,
  fused=Fused('query_key_value', axis=0, by_head=True),
)
