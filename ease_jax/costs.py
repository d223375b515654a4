"""FLOPs per token of every piece, and what an exit costs in total.

One multiply-add is two FLOPs. Norms, softmax, rotary positions and the
residual stream are left out: they are below 10 % of XLA's own count on a
single cell, which the tests check. Attention is counted at the context it
really sees: causal attention over windows of T tokens reads (T + 1) / 2
keys on average.
"""

from collections.abc import Sequence

import numpy as np

from ease_jax.config import ModelConfig

# Signals with memory need every earlier head; a cosine needs none until the
# exit itself is read out.
HEADLESS_SIGNALS = ('state_cosine',)
MEMORY_SIGNALS = ('kl', 'patience')


def mean_context(seq_len: int) -> float:
  """Keys a token sees on average in a causal window of `seq_len` tokens."""
  return (seq_len + 1) / 2


def kv_flops(m: ModelConfig) -> float:
  """Projecting one state to keys and values: the K/V fill of one cell."""
  return 2 * m.dim * 2 * m.num_kv_heads * m.head_dim


def cell_flops(m: ModelConfig, context: float) -> float:
  """One layer on one token that attends to `context` keys."""
  projections = 2 * 2 * m.dim * m.dim  # W_Q and W_O
  matrices = 3 if m.mlp == 'swiglu' else 2
  mlp = 2 * matrices * m.dim * m.mlp_dim
  attention = 2 * 2 * context * m.dim
  return projections + kv_flops(m) + mlp + attention


def head_flops(m: ModelConfig) -> float:
  """Logits of one token at one readout."""
  return 2 * m.dim * m.vocab_size


def full_flops(m: ModelConfig, context: float) -> float:
  """One token through every layer and the last head, exits compiled out."""
  return m.num_layers * cell_flops(m, context) + head_flops(m)


def readout_costs(
    m: ModelConfig,
    context: float,
    policy: str,
    *,
    signal: str = 'max_prob',
    active: Sequence[bool] | np.ndarray | None = None,
) -> np.ndarray:
  """FLOPs per token on answering at each readout, [K] float64.

  Counts the layers up to the exit, every head that was evaluated on the way
  (a readout whose threshold is "never" needs none), the head that answers,
  and under `copy_state` the keys and values of the skipped layers. The price
  of `recompute` depends on the tokens that follow: see
  `deferred_flops`.

  Args:
    m: the model.
    context: mean number of keys.
    policy: K/V policy.
    signal: exit signal; decides which heads it needs.
    active: [K] whether a readout may answer before the last; None = all.
      The last readout's entry is ignored.
  """
  active_K = np.ones(len(m.readouts), bool) if active is None else active
  active_K = np.asarray(active_K, bool).copy()
  active_K[-1] = True
  if signal in MEMORY_SIGNALS and active_K[:-1].any():
    active_K[: np.flatnonzero(active_K[:-1])[-1] + 1] = True
  cell, head, fill = cell_flops(m, context), head_flops(m), kv_flops(m)
  layer_K = np.asarray(m.readouts, np.float64)
  if signal in HEADLESS_SIGNALS:
    heads_K = np.ones(len(layer_K))
    signal_K = np.cumsum(active_K) * 6.0 * m.dim * active_K[:-1].any()
  else:
    heads_K = np.cumsum(active_K)
    signal_K = np.zeros(len(layer_K))
  cost_K = layer_K * cell + heads_K * head + signal_K
  if policy == 'copy_state':
    cost_K += (m.num_layers - layer_K) * fill
  return cost_K


def static_costs(m: ModelConfig, context: float) -> np.ndarray:
  """FLOPs per token of always answering at one readout, [K] float64.

  A model cut off there: no other head, no deeper keys and values.
  """
  return np.asarray(m.readouts) * cell_flops(m, context) + head_flops(m)


def deferred_flops(m: ModelConfig, context: float) -> np.ndarray:
  """Price of making up layers for tokens that others look back at, [K, K].

  Entry [e, d]: a token answered at readout e and a later token of its row
  goes to readout d > e, so that true keys and values are needed in every
  layer up to d's: whole layers below it, and one K/V projection in it.
  """
  layer_K = np.asarray(m.readouts, np.float64)
  skipped_KxK = layer_K[None, :] - layer_K[:, None]
  price_KxK = (skipped_KxK - 1) * cell_flops(m, context) + kv_flops(m)
  return np.where(skipped_KxK > 0, price_KxK, 0.0)


def train_flops_per_token(
    m: ModelConfig, supervised: Sequence[float], seq_len: int
) -> float:
  """Forward and backward FLOPs of one training token.

  Args:
    m: the model.
    supervised: share of the tokens on which each readout is supervised, [K].
    seq_len: T.
  """
  heads = head_flops(m) * float(np.sum(np.asarray(supervised)))
  layers = m.num_layers * cell_flops(m, mean_context(seq_len))
  return 3 * (layers + heads)
