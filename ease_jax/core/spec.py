"""What a model is, as data: frozen specs of the config's section `model`."""

import dataclasses
from typing import Annotated, Any

from ease_jax.checks import (
  Count,
  Depth,
  Layers,
  NotNegative,
  OneOf,
  Range,
  ReadIf,
  Size,
  check_fields,
  need,
)
from ease_jax.core.block import BlockSpec

CAUSAL = 'causal'
ATTENTION_KINDS = (CAUSAL, 'full')
READOUT_NORMS = ('shared', 'per_readout')
MAP = 'map'
BLOCK = 'block'
HEAD = 'head'
ADAPTERS = (BLOCK, MAP, 'low_rank', 'mlp', HEAD)
NARROW = ('low_rank', 'mlp')  # adapters with a width of their own
DTYPES = ('float32', 'bfloat16')


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shape and numerics of a body on the grid (hashable, for Linen).

  Attributes:
    body: name of the body; its schedule makes the grid.
    segments: S, runs of the body's segment.
    num_layers: layers of a segment, as they run; in hrm of each module.
    blocks: whose parameters each of them uses, from 0, so that one may run
      several times; () = all have their own.
    dim: D.
    block: what all blocks look like.
    readouts: layers of a segment that can be read; () = as the body says.
    readout_norm: shared, or per_readout: an own RMSNorm for each.
    readout_adapters: what readouts before the last of a segment do with their
      state first, of ADAPTERS; a block, which looks at other tokens, comes
      before the others; head is an unembedding of their own behind all.
    readout_dim: rank of low_rank, width of mlp among them.
    lora_rank: of products beside all matrices of layers, which may learn while
      these stay; 0 = there are none.
    screen_rank: of a factor that finds the tokens whose logits are worth
      making; 0 = all are made.
    screen_candidates: how many it finds.
    frequent_tokens: most frequent tokens, which a signal may ask about in the
      place of all; 0 = it may not.
    embedding_scale: what embedded tokens are multiplied with.
    tie_embeddings: whether the unembedding is the embedding transposed.
    dropout: on embeddings and on both branches of a block.
    dtype: compute type; parameters are float32.
    remat: recompute a block's activations in the backward pass.
    carry_backprop: last segments that losses reach through; 1 = their own.
    vocab_size: V.
    attention: causal, or full where every token sees all of its row.
    gates: learned signals that it has.
    gate_dim: width of their hidden layer, where they have one; 0 = none.
    routing: who runs which layers (section `model.<router>`); None = everybody,
      unless the body says otherwise.
    options: the body's own spec (section `model.<body>`), or None.
    logit_cap: no logit is further from 0, which a tanh sees to (Gemma 2); 0 =
      any may be.
    positions: rows of a table that is added to embedded tokens, one for each
      position; 0 = there is none.
    document_start: the token that begins a document of a window; nobody looks
      beyond one, and positions count from it. None = windows are of one.
    own_runs: runs of the segment that may have parameters of their own; later
      ones do as the last of them. 0 = all `segments`.
  """

  body: str
  segments: Depth
  num_layers: Depth
  dim: Count
  block: BlockSpec
  readouts: tuple[int, ...]
  readout_norm: Annotated[str, OneOf(READOUT_NORMS)]
  readout_adapters: tuple[Annotated[str, OneOf(ADAPTERS)], ...]
  readout_dim: Annotated[Count, ReadIf('readout_adapters', NARROW)]
  lora_rank: Size
  screen_rank: Size
  screen_candidates: Annotated[Count, ReadIf('screen_rank')]
  frequent_tokens: Size
  embedding_scale: Annotated[float, Range(0, above=True)]
  tie_embeddings: bool
  dropout: Annotated[float, Range(0, 1, below=True)]
  dtype: Annotated[str, OneOf(DTYPES)]
  remat: bool
  carry_backprop: Depth
  vocab_size: Count
  attention: Annotated[str, OneOf(ATTENTION_KINDS)] = CAUSAL
  gates: tuple[str, ...] = ()
  gate_dim: Size = 0
  routing: Any = None  # a core.routers.Routing
  options: Any = None
  blocks: tuple[Layers, ...] = ()
  logit_cap: NotNegative = 0.0
  positions: Size = 0
  own_runs: Size = 0
  document_start: int | None = None

  def __post_init__(self):
    check_fields('model', self)
    heads = self.block.attention.num_heads
    own_width = self.block.attention.head_dim
    need(
      own_width != 0 or self.dim % heads == 0,
      f'model.dim={self.dim} is not divisible by '
      f'model.block.attention.num_heads={heads}; change one of them, or give '
      'heads a width: model.block.attention.head_dim',
    )
    window = self.block.attention.window
    need(
      not window or self.attention == CAUSAL,
      f'model.block.attention.window={window} looks back, and in this task '
      f'tokens see all of their row (attention is {self.attention}); use 0',
    )
    self._check_rotation()
    self._check_readouts()
    self._check_blocks()
    need(
      self.carry_backprop <= self.segments,
      f'model.carry_backprop={self.carry_backprop} is more than '
      f'model.segments={self.segments}; lower it',
    )

  def _check_rotation(self):
    spec = self.block.attention
    share = spec.rope_share
    width = self.rope_dim
    need(
      share != 1 or width % 2 == 0,
      f'heads are {self.head_dim} wide (model.dim={self.dim}, '
      f'model.block.attention.num_heads={spec.num_heads}, head_dim='
      f'{spec.head_dim}), and rotary positions need an even width; change one '
      'of them',
    )
    need(
      share == 0 or (width > 0 and width % 2 == 0),
      f'model.block.attention.rope_share={share} of a head of {self.head_dim} '
      f'are {width} numbers, and rotary positions need an even width; change '
      'it, or use 0 for none',
    )
    factors = spec.rope_factors
    need(
      len(factors) in (0, width // 2),
      f'model.block.attention.rope_factors has {len(factors)} numbers, and a '
      f'head of {self.head_dim} has {width // 2} pairs; give one for each, or '
      '()',
    )

  def _check_readouts(self):
    named = self.readouts
    in_range = all(1 <= layer <= self.num_layers for layer in named)
    need(
      in_range and named == tuple(sorted(set(named))),
      f'model.readouts={named} must be increasing layers from 1 to '
      f'model.num_layers={self.num_layers}',
    )
    need(
      BLOCK not in self.readout_adapters[1:],
      f'model.readout_adapters={self.readout_adapters} has {BLOCK!r} behind '
      'another one, where it cannot see other tokens; name it first, and once',
    )
    need(
      not named or named[-1] == self.num_layers,
      f'model.readouts={named} must end with model.num_layers='
      f'{self.num_layers}: the last layer always answers',
    )

  def _check_blocks(self):
    named = self.blocks
    need(
      len(named) in (0, self.num_layers),
      f'model.blocks={named} are {len(named)} layers, and model.num_layers='
      f'{self.num_layers} counts them as they run; make both the same',
    )
    used = set(named)
    unused = set(range(max(used, default=0))) - used
    need(
      not unused,
      f'model.blocks={named} runs block {max(used, default=0)} and not '
      f'{sorted(unused)}, which it needs to exist; number blocks from 0 '
      'without a gap',
    )

  @property
  def state_adapters(self) -> tuple[str, ...]:
    """Adapters that make a state of one state: all but a block and a head."""
    others = (BLOCK, HEAD)
    return tuple(kind for kind in self.readout_adapters if kind not in others)

  @property
  def trained_runs(self) -> int:
    """Runs that parameters of single runs are made for."""
    return self.own_runs or self.segments

  @property
  def head_dim(self) -> int:
    """Width of an attention head."""
    attention = self.block.attention
    return attention.head_dim or self.dim // attention.num_heads

  @property
  def rope_dim(self) -> int:
    """How many numbers of a head turn with the position."""
    return int(self.head_dim * self.block.attention.rope_share)

  @property
  def heads_dim(self) -> int:
    """Width of all heads together, H times that of one."""
    return self.block.attention.num_heads * self.head_dim

  @property
  def matrices(self) -> dict[str, tuple[int, int]]:
    """What each matrix of a block takes and makes: widths, by its name."""
    kv_dim = self.num_kv_heads * self.head_dim
    inner = self.block.mlp.dim
    shapes = {
      'query': (self.dim, self.heads_dim),
      'key': (self.dim, kv_dim),
      'value': (self.dim, kv_dim),
      'out': (self.heads_dim, self.dim),
      'up': (self.dim, inner),
      'down': (inner, self.dim),
    }
    if self.block.mlp.gated:
      shapes['gate'] = (self.dim, inner)
    return shapes

  @property
  def num_kv_heads(self) -> int:
    """G, heads of keys and values."""
    return self.block.attention.num_kv_heads
