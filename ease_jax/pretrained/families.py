"""Families of models: Llama and those that differ from it in a few things."""

from ease_jax.checks import need
from ease_jax.pretrained import gpt, rope
from ease_jax.pretrained.entries import flag, number
from ease_jax.pretrained.family import Family as Family
from ease_jax.pretrained.family import Json

_FIELDS = {
  'num_hidden_layers': 'num_layers',
  'hidden_size': 'dim',
  'intermediate_size': 'block.mlp.dim',
  'num_attention_heads': 'block.attention.num_heads',
  'rms_norm_eps': 'block.epsilon',
}
_FIXED = {
  'block.norm': 'pre',
  'block.attention.qkv_bias': False,
  'block.attention.qk_norm': 'none',
  'block.mlp.kind': 'swiglu',
}
_DEFAULTS = {'rms_norm_eps': 1e-6}
_ACCEPTS = {
  'hidden_act': ('silu',),
  'attention_bias': (False,),
  'mlp_bias': (False,),
  'partial_rotary_factor': (1.0,),
  'layer_types': ('full_attention', 'sliding_attention'),
  'quantization_config': (),
}
_NAMES = {
  'embed': 'model.embed_tokens.weight',
  'readout_norm/scale': 'model.norm.weight',
  'unembed': 'lm_head.weight',
  'layer_/query/kernel': 'model.layers.{}.self_attn.q_proj.weight',
  'layer_/key/kernel': 'model.layers.{}.self_attn.k_proj.weight',
  'layer_/value/kernel': 'model.layers.{}.self_attn.v_proj.weight',
  'layer_/out/kernel': 'model.layers.{}.self_attn.o_proj.weight',
  'layer_/mlp/gate/kernel': 'model.layers.{}.mlp.gate_proj.weight',
  'layer_/mlp/up/kernel': 'model.layers.{}.mlp.up_proj.weight',
  'layer_/mlp/down/kernel': 'model.layers.{}.mlp.down_proj.weight',
  'layer_/attention_norm/scale': 'model.layers.{}.input_layernorm.weight',
  'layer_/mlp_norm/scale': 'model.layers.{}.post_attention_layernorm.weight',
}
_QKV_BIASES = {
  'layer_/query/bias': 'model.layers.{}.self_attn.q_proj.bias',
  'layer_/key/bias': 'model.layers.{}.self_attn.k_proj.bias',
  'layer_/value/bias': 'model.layers.{}.self_attn.v_proj.bias',
}
_QK_NORMS = {
  'layer_/query_norm/scale': 'model.layers.{}.self_attn.q_norm.weight',
  'layer_/key_norm/scale': 'model.layers.{}.self_attn.k_norm.weight',
}
_BRANCH_NORMS = {
  'layer_/attention_norm/scale': (
    'model.layers.{}.post_attention_layernorm.weight'
  ),
  'layer_/mlp_norm/scale': 'model.layers.{}.post_feedforward_layernorm.weight',
}

_SANDWICH_NORMS = {
  'layer_/attention_norm/scale': 'model.layers.{}.input_layernorm.weight',
  'layer_/attention_out_norm/scale': (
    'model.layers.{}.post_attention_layernorm.weight'
  ),
  'layer_/mlp_norm/scale': 'model.layers.{}.pre_feedforward_layernorm.weight',
  'layer_/mlp_out_norm/scale': (
    'model.layers.{}.post_feedforward_layernorm.weight'
  ),
}


def _window(said: Json, where: object) -> int:
  """Tokens that its local layers see; 0 = all."""
  if 'sliding_window' not in said:
    return 0
  return int(number(said, 'sliding_window', where))


def _every(is_global: list[bool], where: object) -> int:
  """Every so many layers is global; more than there are: none is.

  Raises:
    ConfigError: they follow in no such order.
  """
  count = len(is_global)
  every = is_global.index(True) + 1 if any(is_global) else count + 1
  need(
    is_global == [(i + 1) % every == 0 for i in range(count)],
    f'{where} says of layers that see all tokens: {is_global}, which are not '
    'one behind so many others, always as many; import another model',
  )
  return every


def _global_every(said: Json, where: object, usual: int) -> int:
  """The same, in the old or the new way of saying it.

  Args:
    said: a `config.json`.
    where: the file, for messages.
    usual: where it says nothing.
  """
  kinds = said.get('layer_types')
  if not kinds:
    name = 'sliding_window_pattern'
    return int(number({name: usual} | said, name, where))
  return _every([kind == 'full_attention' for kind in kinds], where)


def _mistral(said: Json, where: object) -> dict[str, object]:
  """All its layers are local."""
  return {'block.attention.window': _window(said, where)}


def _qwen(said: Json, where: object) -> dict[str, object]:
  """Its local layers, if it uses them: those behind the first so many."""
  window = _window(said, where)
  if not flag(said, 'use_sliding_window', False, where) or not window:
    return {}
  layers = said['num_hidden_layers']
  first = said.get('max_window_layers', 28)
  need(
    isinstance(first, int) and first >= 0,
    f'{where} says max_window_layers={first!r}, which is no number of layers; '
    'get it again',
  )
  kinds = said.get('layer_types') or ['full_attention'] * first
  is_global = [kind == 'full_attention' for kind in kinds[:layers]]
  is_global += [False] * (layers - len(is_global))
  if all(is_global):
    return {}
  every = _every(is_global, where) if any(is_global) else 0
  return {
    'block.attention.window': window,
    'block.attention.global_every': every,
  }


def _gemma(said: Json, where: object) -> dict[str, object]:
  """The size of embeddings, scales and limits of scores, limits of logits."""
  caps = {
    'logit_cap': 'final_logit_softcapping',
    'block.attention.score_cap': 'attn_logit_softcapping',
  }
  fields: dict[str, object] = {
    ours: float(number(said, name, where, whole=False))
    for ours, name in caps.items()
    if name in said
  }
  width = int(number(said, 'query_pre_attn_scalar', where))
  is_usual = width == number(said, 'head_dim', where)
  return fields | {
    'embedding_scale': float(said['hidden_size']) ** 0.5,
    'block.attention.query_width': 0 if is_usual else width,
    'block.attention.window': _window(said, where),
  }


def _gemma2(said: Json, where: object) -> dict[str, object]:
  """Every second layer is local, with the positions of the others."""
  fields = _gemma(said, where)
  turned = rope.positions(said, said['head_dim'], where)
  need(
    not turned.factors,
    f'{where} scales rotary positions, and those of local layers as well, '
    'which no block can; import another model',
  )
  return fields | {
    'block.attention.global_every': _global_every(said, where, usual=2),
    'block.attention.local_rope_base': turned.base,
  }


def _gemma3(said: Json, where: object) -> dict[str, object]:
  """Local layers have positions of their own."""
  fields = _gemma(said, where)
  local = (said.get('rope_parameters') or {}).get('sliding_attention')
  fallback = {'rope_theta': said.get('rope_local_base_freq', 10000.0)}
  turned = rope.positions(
    {'rope_parameters': local or fallback}, said['head_dim'], where
  )
  need(
    not turned.factors and turned.share == 1,
    f'{where} scales rotary positions of local layers, {local}, which no block '
    'can; import another model',
  )
  return fields | {
    'block.attention.global_every': _global_every(said, where, usual=6),
    'block.attention.local_rope_base': turned.base,
  }


_LLAMA = Family(
  'llama',
  _FIELDS,
  _FIXED | {'block.attention.window': 0},
  _DEFAULTS,
  _ACCEPTS,
  _NAMES,
)
_GEMMA_DEFAULTS = _DEFAULTS | {
  'head_dim': 256,
  'query_pre_attn_scalar': 256,
  'sliding_window': 4096,
}
_GEMMA2 = _LLAMA._replace(
  model_type='gemma2',
  fixed={
    'block.norm': 'sandwich',
    'block.attention.qkv_bias': False,
    'block.attention.qk_norm': 'none',
    'block.mlp.kind': 'geglu',
  },
  defaults=_GEMMA_DEFAULTS
  | {'attn_logit_softcapping': 50.0, 'final_logit_softcapping': 30.0},
  accepts=_ACCEPTS
  | {
    'hidden_act': ('gelu_pytorch_tanh',),
    'hidden_activation': ('gelu_pytorch_tanh',),
    'use_bidirectional_attention': (False,),
  },
  names=_NAMES | _SANDWICH_NORMS,
  more=_gemma2,
  scale=1.0,
  made_here=False,
)
FAMILIES: dict[str, Family] = {
  'LlamaForCausalLM': _LLAMA,
  'MistralForCausalLM': _LLAMA._replace(
    model_type='mistral',
    fixed=_FIXED,
    defaults=_DEFAULTS | {'sliding_window': 4096},
    more=_mistral,
  ),
  'Qwen2ForCausalLM': _LLAMA._replace(
    model_type='qwen2',
    fixed=_FIXED | {'block.attention.qkv_bias': True},
    defaults=_DEFAULTS | {'sliding_window': 4096},
    more=_qwen,
    names=_NAMES | _QKV_BIASES,
  ),
  'Qwen3ForCausalLM': _LLAMA._replace(
    model_type='qwen3',
    fixed=_FIXED | {'block.attention.qk_norm': 'head'},
    defaults=_DEFAULTS | {'head_dim': 128, 'sliding_window': 4096},
    more=_qwen,
    names=_NAMES | _QK_NORMS,
  ),
  'Olmo2ForCausalLM': _LLAMA._replace(
    model_type='olmo2',
    defaults={'rms_norm_eps': 1e-5},
    fixed=_FIXED | {'block.attention.qk_norm': 'all', 'block.norm': 'branch'},
    names=_NAMES | _QK_NORMS | _BRANCH_NORMS,
  ),
  'Gemma2ForCausalLM': _GEMMA2,
  'Gemma3ForCausalLM': _GEMMA2._replace(
    model_type='gemma3_text',
    fixed=dict(_GEMMA2.fixed) | {'block.attention.qk_norm': 'head'},
    defaults=_GEMMA_DEFAULTS | {'rope_theta': 1e6},
    names=_NAMES | _QK_NORMS | _SANDWICH_NORMS,
    more=_gemma3,
  ),
  'GPT2LMHeadModel': gpt.GPT2,
  'GPTNeoXForCausalLM': gpt.NEOX,
}
