"""What a block is, as data: frozen specs of the config's `model.block`."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from ease_jax.checks import (
  Count,
  NotNegative,
  OneOf,
  Range,
  ReadIf,
  Share,
  Size,
  check_fields,
  need,
)

NORMS = ('pre', 'post', 'branch', 'sandwich')
NORM_KINDS = ('rms', 'layer')
UNGATED = ('gelu', 'gelu_exact')
MLPS = (*UNGATED, 'swiglu', 'geglu')
NORMED_HEADS = ('none', 'head', 'all')
CUDNN = 'cudnn'
KERNELS = ('tiles', CUDNN)
Turns = ReadIf('rope_share')


@dataclasses.dataclass(frozen=True)
class AttentionSpec:
  """Section `model.block.attention`.

  Attributes:
    num_heads: H; divides the model's width where heads have none of their own.
    num_kv_heads: G, divides H (grouped-query attention).
    head_dim: width of a head; 0 = the model's width by H.
    rope_share: how much of each head turns with the position, the numbers at
      its front (GPT-NeoX); 0 = nothing does.
    rope_base: wavelength base of rotary positions.
    rope_factors: by which the wavelength of each pair of a head grows; () = 1.
    global_every: every so many layers is global, the others are local (Gemma);
      0 = all are global.
    local_rope_base: of the positions in local layers.
    query_width: scores are divided by its root; 0 = that of a head's width.
    score_cap: no score is further from 0, which a tanh sees to (Gemma 2); 0 =
      any may be.
    window: tokens that a layer sees, itself and those before it (Mistral,
      2310.06825); local ones alone where others are global; 0 = all.
    qkv_bias: whether queries, keys and values have biases (Qwen 2).
    out_bias: whether the matrix behind the heads has one (GPT-2).
    qk_norm: RMSNorm of queries and keys: of each head (Qwen 3), of all heads
      together (OLMo 2), or none.
    kernel: what makes attention among the tokens of whole windows: tiles, or
      cudnn on a GPU for all that it can.
  """

  num_heads: Count
  num_kv_heads: Count
  head_dim: Size
  rope_share: Share
  rope_base: Annotated[float, Range(1), Turns]
  rope_factors: Annotated[
    tuple[Annotated[float, Range(0, above=True)], ...], Turns
  ]
  global_every: Size
  local_rope_base: Annotated[float, Range(1), ReadIf('global_every'), Turns]
  query_width: Size
  score_cap: NotNegative
  window: Size
  qkv_bias: bool
  out_bias: bool
  qk_norm: Annotated[str, OneOf(NORMED_HEADS)]
  kernel: Annotated[str, OneOf(KERNELS)]

  def __post_init__(self):
    check_fields('model.block.attention', self)
    need(
      self.num_heads % self.num_kv_heads == 0,
      f'model.block.attention.num_heads={self.num_heads} is not divisible by '
      f'num_kv_heads={self.num_kv_heads}; change one of them',
    )

  def is_local(self, layer: int) -> bool:
    """Whether a layer, counted from 0, is a local one."""
    return bool(self.global_every) and (layer + 1) % self.global_every != 0

  def window_of(self, layer: int) -> int:
    """Tokens that a layer, counted from 0, sees; 0 = all."""
    is_near = self.is_local(layer) or not self.global_every
    return self.window if is_near else 0


@dataclasses.dataclass(frozen=True)
class MLPSpec:
  """Section `model.block.mlp`.

  Attributes:
    kind: gelu, by a tanh that is close to it, or gelu_exact; or with a gate:
      swiglu, geglu.
    dim: F.
    bias: whether its matrices have biases (GPT-2).
  """

  kind: Annotated[str, OneOf(MLPS)]
  dim: Count
  bias: bool

  def __post_init__(self):
    check_fields('model.block.mlp', self)

  @property
  def matrices(self) -> int:
    """Matrices of D x F that it multiplies with."""
    return 3 if self.gated else 2

  @property
  def gated(self) -> bool:
    """Whether a second matrix says how much of each unit passes."""
    return self.kind not in UNGATED


@dataclasses.dataclass(frozen=True)
class BlockSpec:
  """Section `model.block`.

  Attributes:
    norm: pre, before each branch; post, after its sum; branch, of what it adds
      (OLMo 2); sandwich, before it and of what it adds (Gemma).
    parallel: whether attention and MLP are given the same state, and add to it
      together (GPT-NeoX, 2204.06745).
    norm_kind: what norms of blocks and readouts do: rms divides by the root of
      the mean square (1910.07467), layer takes the mean away before and adds a
      bias behind (LayerNorm, 1607.06450).
    epsilon: what all norms of the model add to a mean square.
    attention: its attention.
    mlp: its feed-forward network.
  """

  norm: Annotated[str, OneOf(NORMS)]
  parallel: bool
  norm_kind: Annotated[str, OneOf(NORM_KINDS)]
  epsilon: Annotated[float, Range(0, above=True)]
  attention: AttentionSpec
  mlp: MLPSpec

  def __post_init__(self):
    check_fields('model.block', self)
    need(
      not (self.parallel and self.norm == 'post'),
      f'model.block.parallel={self.parallel} makes one sum of both branches, '
      f'and model.block.norm={self.norm} norms that of each; use False, or '
      'another norm',
    )

  @classmethod
  def from_config(cls, section: Mapping[str, Any]) -> 'BlockSpec':
    return cls(
      section['norm'],
      section['parallel'],
      section['norm_kind'],
      section['epsilon'],
      AttentionSpec(**section['attention']),
      MLPSpec(**section['mlp']),
    )
