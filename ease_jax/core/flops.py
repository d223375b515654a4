"""FLOPs of single pieces on one token, forward; `costs` says what they are."""

from typing import NamedTuple

from ease_jax.core.spec import ModelConfig


class OwnCost(NamedTuple):
  """What a cell has beside the matrices of its block, in FLOPs per token.

  Attributes:
    block: on top of its price.
    fill: on top of that of its keys and values alone.
    trained: on top of its price in training, where one program is all runs.
    learned: of that, what learns where the block stays as it is.
  """

  block: float = 0.0
  fill: float = 0.0
  trained: float = 0.0
  learned: float = 0.0


def kv_flops(cfg: ModelConfig) -> float:
  """Projecting one state to keys and values: the K/V fill of one cell."""
  return 2 * cfg.dim * 2 * cfg.num_kv_heads * cfg.head_dim


def block_flops(cfg: ModelConfig, context: float) -> float:
  """One block on one token that attends to `context` keys."""
  projections = 2 * 2 * cfg.dim * cfg.heads_dim  # W_Q and W_O
  mlp = 2 * cfg.block.mlp.matrices * cfg.dim * cfg.block.mlp.dim
  attention = 2 * 2 * context * cfg.heads_dim
  return projections + kv_flops(cfg) + mlp + attention


def whole_head_flops(cfg: ModelConfig) -> float:
  """All logits of one token at one readout, as losses want them."""
  return 2 * cfg.dim * cfg.vocab_size


def head_flops(cfg: ModelConfig) -> float:
  """Logits of one token at one readout, screened where a model does that."""
  whole = whole_head_flops(cfg)
  if not cfg.screen_rank:
    return whole
  factor = 2 * cfg.screen_rank * (cfg.dim + cfg.vocab_size)
  share = min(cfg.screen_candidates / cfg.vocab_size, 1.0)
  return factor + share * whole


def adapter_flops(cfg: ModelConfig) -> float:
  """What the adapters of one readout do to one state, a block left out."""
  narrow = 2 * cfg.readout_dim  # columns of two matrices
  columns = {'map': cfg.dim, 'low_rank': narrow, 'mlp': narrow}
  return sum(2.0 * cfg.dim * columns[kind] for kind in cfg.state_adapters)


def low_rank_flops(cfg: ModelConfig, rank: int, *names: str) -> float:
  """Products of a low rank beside matrices of a block, on one token.

  Args:
    cfg: a model's shape.
    rank: of the products.
    *names: of the matrices; none = all of them.
  """
  shapes = cfg.matrices
  return sum(2.0 * rank * sum(shapes[name]) for name in names or shapes)
