"""FLOPs of single pieces on one token, forward; `costs` says what they are."""

from ease_jax.core.spec import ModelConfig


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
