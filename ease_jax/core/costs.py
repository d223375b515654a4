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
HEADLESS_SIGNALS = ('state_cosine', 'q_halt')
MEMORY_SIGNALS = ('kl', 'patience')
# Under `recompute` so many tokens of a row may wait for their deeper layers.
MAX_WAITING = 8


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


def asking_flops(m: ModelConfig, signal: str) -> float:
  """Whether a token stops at a readout: a head, or a signal without one."""
  return 6.0 * m.dim if signal in HEADLESS_SIGNALS else head_flops(m)


def inject_flops(m: ModelConfig) -> float:
  """What the carried state costs one token at the start of a segment."""
  projects = m.body == 'refine' and m.carry_inject != 'add'
  return 2 * 2 * m.dim * m.dim if projects else 0.0


def _body_flops(m: ModelConfig, context: float) -> np.ndarray:
  """One token up to each readout without any head, [K] float64."""
  segment_K = np.asarray([s for s, _ in m.cells], np.float64)
  layers_K = np.asarray(m.depth_K, np.float64)
  return layers_K * cell_flops(m, context) + segment_K * inject_flops(m)


def full_flops(m: ModelConfig, context: float) -> float:
  """One token through every layer and the last head, exits compiled out."""
  return float(_body_flops(m, context)[-1]) + head_flops(m)


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
  and the keys and values that the policy makes for skipped layers. The price
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
  active_K = np.ones(len(m.cells), bool) if active is None else active
  active_K = np.asarray(active_K, bool).copy()
  active_K[-1] = True
  if signal in MEMORY_SIGNALS and active_K[:-1].any():
    active_K[: np.flatnonzero(active_K[:-1])[-1] + 1] = True
  if signal in HEADLESS_SIGNALS:
    heads_K = np.ones(len(active_K))
    early_K = np.append(active_K[:-1], False)  # the last one answers anyway
    signal_K = np.cumsum(early_K) * asking_flops(m, signal)
  else:
    heads_K = np.cumsum(active_K)
    signal_K = np.zeros(len(active_K))
  cost_K = _body_flops(m, context) + heads_K * head_flops(m) + signal_K
  return cost_K + filled_layers(m, policy) * kv_flops(m)


def filled_layers(m: ModelConfig, policy: str) -> np.ndarray:
  """Layers whose keys and values are made for an exit at each readout, [K]."""
  depth_K = np.asarray(m.depth_K, np.float64)
  if policy == 'copy_state':
    return m.depth - depth_K
  if policy == 'latest':  # later segments reuse them
    return np.maximum(m.segment_depth - depth_K, 0.0)
  return np.zeros_like(depth_K)


def static_costs(m: ModelConfig, context: float) -> np.ndarray:
  """FLOPs per token of always answering at one readout, [K] float64.

  A model cut off there: no other head, no deeper keys and values.
  """
  return _body_flops(m, context) + head_flops(m)


def deferred_flops(m: ModelConfig, context: float) -> np.ndarray:
  """Price of making up layers for tokens that others look back at, [K, K].

  Entry [e, d]: a token answered at readout e and a later token of its row
  goes to readout d > e, so that true keys and values are needed in every
  layer up to d's: whole layers below it, and one K/V projection in it.
  """
  body_K = _body_flops(m, context)
  more_KxK = body_K[None, :] - body_K[:, None]
  price_KxK = more_KxK - cell_flops(m, context) + kv_flops(m)
  return np.where(more_KxK > 0, price_KxK, 0.0)


def train_flops_per_token(
  m: ModelConfig,
  supervised: Sequence[float],
  seq_len: int,
  *,
  halting: bool = False,
) -> float:
  """Forward and backward FLOPs of one training token; recomputation is free.

  A backward pass costs two forward ones. HRM's goes through the last update of
  each state only; its halting runs every segment a second time, forward.

  Args:
    m: the model.
    supervised: share of the tokens on which each readout is supervised, [K].
    seq_len: T.
    halting: whether Q-learning of halting is part of it.
  """
  heads = head_flops(m) * float(np.sum(np.asarray(supervised)))
  cell = cell_flops(m, mean_context(seq_len))
  forward = m.segments * (m.segment_depth * cell + inject_flops(m))
  backward = 2 * forward
  if m.body == 'hrm':
    backward = 2 * m.segments * 2 * m.num_layers * cell
  return forward * (2 if halting else 1) + backward + 3 * heads
