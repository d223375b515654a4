"""FLOPs that a run takes once, beside its updates: fits and states it keeps.

Products of matrices alone, as everywhere (`docs/compute.md`). Windows are
multiplied whole, so that attention is counted at all their tokens.
"""

import math

from ease_jax.core.costs import CostModel
from ease_jax.core.spec import MAP
from ease_jax.model import Body
from ease_jax.train import fitting
from ease_jax.train.spec import TrainSpec

# Multiples of D^3, as LAPACK is known to take.
LU = 2 / 3
CHOLESKY = 1 / 3
EIGENVECTORS = 9  # of a symmetric matrix (Golub & Van Loan, 8.3)


def flops(train: TrainSpec, body: Body, seq_len: int) -> float:
  """All that a run takes beside its updates.

  Args:
    train: what is fitted and kept.
    body: the model.
    seq_len: T, tokens of a window.
  """
  prices = body.costs(seq_len)
  batch = train.batch_size * seq_len
  kept = train.cached_batches * batch * states_flops(prices)
  return kept + _fit_flops(train, body, prices, batch)


def states_flops(prices: CostModel) -> float:
  """One token's states at all readouts, as their heads would see them."""
  again = (prices.grid.num_readouts - 1) * prices.coda
  return prices.teaching(heads=0) + again + float(prices.aside_K.sum())


def _fit_flops(
  train: TrainSpec, body: Body, prices: CostModel, batch: int
) -> float:
  """Of `fitting.fitted`, which reads whole batches of so many tokens."""
  maps = MAP in body.cfg.readout_adapters
  rank = body.cfg.screen_rank
  if not train.fit_tokens or not (maps or rank):
    return 0.0  # to count tokens takes no products

  dim = body.cfg.dim
  early = body.grid.per_segment - 1
  products = 2 * early * body.grid.segments + 1  # D x D, of each token
  per_token = states_flops(prices) + products * 2 * dim**2
  total = _whole(train.fit_tokens, batch) * per_token

  if maps:
    total += early * (LU + 2) * dim**3
  if rank:
    some = min(train.fit_tokens, fitting.SHIFT_TOKENS)
    total += _screen_flops(dim, body.cfg.vocab_size, rank)
    heads = prices.head + prices.whole_head
    total += _whole(some, batch) * (states_flops(prices) + heads)
  return total


def _screen_flops(dim: int, vocab_size: int, rank: int) -> float:
  """The factor of a rank: see `fitting`."""
  squares = 2 * vocab_size * dim**2
  root = (CHOLESKY + 2 * 2 + EIGENVECTORS) * dim**3
  solved = LU * dim**3 + 2 * dim**2 * rank
  out_of = 2 * dim**2 * rank + 2 * vocab_size * dim * rank
  return squares + root + solved + out_of


def _whole(tokens: int, batch: int) -> int:
  """Tokens of the fewest batches that have so many."""
  return math.ceil(tokens / batch) * batch
