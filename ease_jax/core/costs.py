"""FLOPs per token of every piece, and what an exit costs in total.

The only place that knows a FLOP. One multiply-add is two FLOPs. Norms,
softmax, rotary positions and the residual stream are left out: they are below
10 % of XLA's own count on a single cell, which the tests check. Attention is
counted at the context it really sees: causal attention over windows of T
tokens reads (T + 1) / 2 keys on average.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ease_jax.core.context import Context
from ease_jax.core.flops import (
  OwnCost,
  adapter_flops,
  block_flops,
  head_flops,
  kv_flops,
  whole_head_flops,
)
from ease_jax.core.gates import GateShape
from ease_jax.core.grid import Cell, Grid
from ease_jax.core.policies import ExitRule, KVPolicy
from ease_jax.core.routers import Share
from ease_jax.core.spec import ModelConfig


@dataclasses.dataclass(frozen=True, eq=False)
class CostModel:
  """Prices of a model's pieces at one context, in FLOPs per token.

  Attributes:
    grid: the model's cells.
    dim: D.
    gate_dim: width of the hidden layer of gates, 0 = none.
    frequent: tokens that a signal may ask about in the place of all.
    block_L: price of each cell's block, the coda's cells last.
    extra_L: what bodies and routers add to each cell; it is paid for a token
      that a router keeps out of the cell, too.
    trained_L: price of each cell's block to the mean training token: routers
      run it on a part of the batch.
    learned_L: of that, what stands beside the block and learns without it.
    fill_L: keys and values of each cell alone.
    head: logits of one readout.
    whole_head: the same in a loss, where nothing is screened.
    adapter_K: of each readout, what its state goes through before its head.
    aside_K: of each readout, a block of its own before that; it is run where
      the readout is asked or answers, and only then.
  """

  grid: Grid
  dim: int
  gate_dim: int
  frequent: int
  block_L: np.ndarray
  extra_L: np.ndarray
  trained_L: np.ndarray
  learned_L: np.ndarray
  fill_L: np.ndarray
  head: float
  whole_head: float
  adapter_K: np.ndarray
  aside_K: np.ndarray

  @property
  def cell_L(self) -> np.ndarray:
    """Price of each cell that a token runs, [L]."""
    return self.block_L + self.extra_L

  @property
  def full(self) -> float:
    """One token through every cell and the last head, exits compiled out."""
    return float(self.cell_L.sum()) + self.head

  @property
  def coda(self) -> float:
    """The cells that run on the state that answers."""
    return float(self.cell_L[len(self.grid.cells) :].sum())

  @property
  def head_K(self) -> np.ndarray:
    """Logits of each readout, what is its own included, [K]."""
    return self.head + self.adapter_K + self.aside_K

  @property
  def body_K(self) -> np.ndarray:
    """Cells of one token that is answered at each readout, no head, [K]."""
    up_to_L = np.cumsum(self.cell_L)
    reach_K = np.asarray(self.grid.reach_K)
    return up_to_L[reach_K - 1] + self.coda

  @property
  def static_K(self) -> np.ndarray:
    """A static exit: all tokens answered at one readout, [K].

    It is charged as a model that is cut off there: no other head is asked, and
    deeper keys and values are of use to nobody.
    """
    return self.body_K + self.head_K

  def fills_K(self, policy: KVPolicy) -> np.ndarray:
    """Keys and values of skipped cells that a policy makes for an exit, [K]."""
    return policy.filled(self.grid) @ self.fill_L[: len(self.grid.cells)]

  def answered_K(self, policy: KVPolicy) -> np.ndarray:
    """Being answered at each readout by somebody who asks nothing, [K].

    Counts the cells up to the exit, the head that answers, and the keys and
    values that the policy makes for skipped cells.
    """
    return self.body_K + self.head_K + self.fills_K(policy)

  def relative(self, flops: float) -> float:
    """FLOPs as a share of this model's own full pass."""
    return float(flops) / self.full

  def asking(self, rule: ExitRule, k: int) -> float:
    """Asking at readout k who stops: a head, or a signal without one."""
    signal = rule.signal
    num = self.grid.num_readouts
    shape = GateShape(self.dim, self.gate_dim, num, self.frequent)
    head = self.head if signal.needs_head(k) else 0.0
    return head + self._adapting(rule, k) + signal.flops(shape, k)

  def _adapting(self, rule: ExitRule, k: int) -> float:
    """The part of that price that makes the state that a head sees."""
    sees = rule.signal.sees_adapted(k)
    return float(sees * self.adapter_K[k] + self.aside_K[k])

  def exit_K(
    self,
    rule: ExitRule,
    active_K: Sequence[bool] | np.ndarray | None = None,
  ) -> np.ndarray:
    """FLOPs per token on being answered at each readout, [K] float64.

    Counts the cells up to the exit, every question on the way (a readout whose
    threshold is "never" asks none), the head that answers, and the keys and
    values that the policy makes for skipped cells. What `recompute` makes up
    later depends on the tokens that follow: see `deferred_KxK`.

    Args:
      rule: signal and policy.
      active_K: whether a readout may answer before the last; None = all may.
        The last readout's entry is ignored.
    """
    num = self.grid.num_readouts
    asks_K = np.ones(num, bool) if active_K is None else np.array(active_K)
    asks_K = asks_K.astype(bool)
    asks_K[-1] = False  # it answers anyway

    earlier = rule.signal.needs_earlier(self.grid.has_asides)
    if earlier and asks_K.any():
      last_asked = np.flatnonzero(asks_K)[-1]
      asks_K[: last_asked + 1] = True

    price_K = np.asarray([self.asking(rule, k) for k in range(num)])
    questions_K = np.cumsum(asks_K * price_K)
    # A head that was asked for at the exit is the one that answers.
    needs_K = np.asarray([rule.signal.needs_head(k) for k in range(num)])
    adapted_K = np.asarray([self._adapting(rule, k) for k in range(num)])
    shared_K = np.where(needs_K, self.head, 0.0) + adapted_K
    spared_K = np.where(asks_K, shared_K, 0.0)
    passed_K = np.cumsum(np.where(asks_K, 0.0, self._aside_fill_K))
    return self.answered_K(rule.policy) + questions_K - spared_K + passed_K

  @property
  def _aside_fill_K(self) -> np.ndarray:
    """Keys and values of the cell aside of each readout, nothing else, [K]."""
    fill_K = self.fill_L[np.asarray(self.grid.reach_K) - 1]
    return np.where(self.aside_K > 0, fill_K, 0.0)

  @property
  def deferred_KxK(self) -> np.ndarray:
    """Price of making up cells for tokens that others look back at, [K, K].

    Entry [e, d]: a token answered at readout e and a later token of its row
    goes to readout d > e, so that true keys and values are needed in every
    cell up to d's: whole cells below it, and one K/V projection in it.
    """
    body_K = self.body_K
    more_KxK = body_K[None, :] - body_K[:, None]
    last_K = np.asarray(self.grid.reach_K) - 1
    whole_K = self.block_L[last_K]
    price_KxK = more_KxK - whole_K[None, :] + self.fill_L[last_K][None, :]
    return np.where(more_KxK > 0, price_KxK, 0.0)

  def spared_KxN(self, run_LxN: np.ndarray) -> np.ndarray:
    """What routers spared each token on its way to each readout, in FLOPs.

    Args:
      run_LxN: bool, who ran each cell before it was answered.
    """
    reach_K = np.asarray(self.grid.reach_K)
    total_KxN = np.zeros((len(reach_K), run_LxN.shape[1]))

    for cell, run_N in zip(self.grid.cells, run_LxN, strict=True):
      if cell.router is None:
        continue
      passed_KxN = (cell.number < reach_K)[:, None] & ~run_N.astype(bool)
      total_KxN += self.block_L[cell.number] * passed_KxN
    return total_KxN

  @property
  def prelude(self) -> float:
    """FLOPs of one token through the prelude, forward."""
    return float(self.cell_L[: len(self.grid.prelude)].sum())

  @property
  def segment(self) -> float:
    """FLOPs of one token through one segment, forward, no head."""
    start = len(self.grid.prelude)
    stop = start + len(self.grid.segment)
    return float((self.trained_L + self.extra_L)[start:stop].sum())

  def teaching(self, heads: float) -> float:
    """What a teacher takes for one token: every cell, forward, and heads.

    Args:
      heads: how often its head runs.
    """
    return float(self.cell_L.sum()) + heads * self.head

  def train_per_token(
    self,
    trained_K: Sequence[float],
    asked_K: Sequence[float] | None = None,
    *,
    looks: float = 0.0,
    ahead: bool = False,
    cell_passes: int = 2,
    head_passes: int = 3,
    early_passes: int = 3,
    again: int = 0,
    rehearsed: bool = False,
  ) -> float:
    """Forward and backward FLOPs of one training token; recomputation is free.

    A backward pass costs two forward ones, and goes through those cells only
    that carry a gradient.

    Args:
      trained_K: share of the tokens that each readout is trained on.
      asked_K: heads of each readout that run forward only, for a token: to
        decide on an exit or whether a prediction was right, or to teach.
      looks: how often the coda runs forward for them.
      ahead: whether every segment is run a second time, forward, to look one
        segment ahead.
      cell_passes: products of a cell in the backward pass: 2 = of its states
        and its own, 1 = of its states, what stands beside it learns, 0 = none.
      head_passes: products of the last head: 1 forward, 1 for the gradient of
        its states, 1 for its own.
      early_passes: the same of the heads before it.
      again: how often more the prelude runs, forward and backward.
      rehearsed: whether all cells are run a second time, forward, for what the
        last readout will say.
    """
    carries_L = np.asarray([cell.grad for cell in self.grid.cells], float)
    body_L = (self.trained_L + self.extra_L)[: len(carries_L)]
    forward = body_L.sum()
    beside_L = self.learned_L if cell_passes == 1 else 0 * self.learned_L
    backward_L = cell_passes * body_L + beside_L[: len(carries_L)]
    backward = backward_L @ carries_L
    forward += again * (body_L + backward_L)[: len(self.grid.prelude)].sum()

    if ahead:
      forward += body_L[len(self.grid.prelude) :].sum()
    if rehearsed:
      forward += self.teaching(heads=0)

    share_K = np.asarray(trained_K)
    passes_K = np.where(self.grid.is_last_K, head_passes, early_passes)
    heads = share_K @ passes_K * self.whole_head
    coda = head_passes * self.coda + beside_L[len(carries_L) :].sum()
    heads += share_K.sum() * coda
    adapter_passes = 3 if early_passes > 1 else 1  # a gradient that comes along
    heads += adapter_passes * (share_K @ (self.adapter_K + self.aside_K))
    if asked_K is not None:
      heads += np.asarray(asked_K) @ self.head_K
    return float(forward + backward + heads + looks * self.coda)


def cost_model(
  cfg: ModelConfig,
  grid: Grid,
  context: float | Context,
  extra: dict[Cell, float] | None = None,
  shares: dict[Cell, Share] | None = None,
  own: Mapping[Cell, OwnCost] | None = None,
) -> CostModel:
  """The prices of a model.

  Args:
    cfg: its shape.
    grid: its cells.
    context: mean number of keys that a token sees; one number where all are
      multiplied with, however far a layer looks.
    extra: FLOPs of what a body or a router adds to single cells.
    shares: of the training batch on which routed cells are run.
    own: of cells that are not as others of their block.
  """
  extra = extra or {}
  shares = shares or {}
  cells = (*grid.cells, *grid.tail)
  own_L = [(own or {}).get(cell, OwnCost()) for cell in cells]

  if not isinstance(context, Context):
    context = Context(context, context)
  windows = [
    0 if cell.aside else cfg.block.attention.window_of(cell.block)
    for cell in cells
  ]
  context_L = [context.of(window) for window in windows]

  whole_L = [
    block_flops(cfg, keys) + own.block
    for keys, own in zip(context_L, own_L, strict=True)
  ]
  is_aside_L = np.asarray([cell.aside for cell in cells])
  block_L = np.where(is_aside_L, 0.0, whole_L)
  aside_L = np.where(is_aside_L, whole_L, 0.0)
  extra_L = np.asarray([extra.get(cell, 0.0) for cell in cells], np.float64)
  fill_L = [kv_flops(cfg) + own.fill for own in own_L]
  share_L = [shares.get(cell, Share()) for cell in cells]
  trained_L = [
    share.of_batch * (block_flops(cfg, keys * share.tokens) + own.trained)
    for keys, share, own in zip(context_L, share_L, own_L, strict=True)
  ]
  learned_L = [
    share.of_batch * own.learned
    for share, own in zip(share_L, own_L, strict=True)
  ]
  return CostModel(
    grid,
    cfg.dim,
    cfg.gate_dim,
    cfg.frequent_tokens,
    block_L,
    extra_L,
    np.where(is_aside_L, 0.0, trained_L),
    np.asarray(learned_L),
    np.asarray(fill_L, np.float64),
    head_flops(cfg),
    whole_head_flops(cfg),
    np.where(grid.is_last_K, 0.0, adapter_flops(cfg)),
    aside_L[np.asarray(grid.reach_K) - 1],
  )
