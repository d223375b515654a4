"""The exit grid: the one idea every method of this package is a choice on.

A model unrolls S segments of L layers. A *cell* is (segment, layer), 1-based.
A *readout* is a cell where a prediction may be read; the K readouts are
ordered by cumulative cost and the last one always answers. Training weighs
the readouts, inference stops at the first one that is confident enough, and
compute is the cumulative cost of where a token stopped.

Axis letters, used as name suffixes throughout the package: S segments,
L layers, K readouts, B batch, T time, D width, H heads, F MLP width,
V vocabulary, C cache length, N tokens of any arrangement.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class ExitGrid:
  """Where predictions may be read, what they weigh and what they cost.

  Attributes:
    cells: (segment, layer) of each readout in order of cost, K of them.
    weight_K: loss weight of each readout.
    cost_K: FLOPs per token on reaching the readout, increasing.
  """

  cells: tuple[tuple[int, int], ...]
  weight_K: tuple[float, ...]
  cost_K: tuple[float, ...]

  def __post_init__(self):
    if not len(self.cells) == len(self.weight_K) == len(self.cost_K):
      raise ValueError(
        f'{len(self.cells)} cells, {len(self.weight_K)} weights and '
        f'{len(self.cost_K)} costs; a readout has one of each'
      )
    if list(self.cost_K) != sorted(self.cost_K):
      raise ValueError(f'readouts must be in order of cost, got {self.cost_K}')

  @property
  def num_readouts(self) -> int:
    return len(self.cells)


def first_exit(score_KxBxT: jax.Array, threshold_K: jax.Array) -> jax.Array:
  """Index of the first readout whose score reaches its threshold.

  Thresholds are exact: +inf never exits, whatever the score; -inf exits at
  once, even on a score of -inf. The last threshold is ignored, because the
  last readout always answers.

  Args:
    score_KxBxT: confidence of each readout; higher means exit.
    threshold_K: one threshold per readout.

  Returns:
    exit_BxT, int32 in [0, K).
  """
  threshold_Kx1x1 = jnp.asarray(threshold_K)[:, None, None]
  hit_KxBxT = exits(score_KxBxT, threshold_Kx1x1).at[-1].set(True)
  return jnp.argmax(hit_KxBxT, axis=0).astype(jnp.int32)


def exits(score: jax.Array, threshold: jax.Array) -> jax.Array:
  """The exit rule itself: score >= threshold, and +inf means never."""
  return (score >= threshold) & (threshold < jnp.inf)


def expected_compute(
  exit_BxT: jax.Array, cost_K: jax.Array, token_mask_BxT: jax.Array
) -> jax.Array:
  """Mean cost per unmasked token, in the unit of `cost_K`."""
  count_K = exit_counts(exit_BxT, len(cost_K), token_mask_BxT)
  return count_K @ jnp.asarray(cost_K) / count_K.sum()


def exit_counts(
  exit_BxT: jax.Array, num_readouts: int, token_mask_BxT: jax.Array
) -> jax.Array:
  """Unmasked tokens that stopped at each readout, [K] float32."""
  k_Kx1x1 = jnp.arange(num_readouts)[:, None, None]
  hit_KxBxT = jnp.asarray(exit_BxT)[None] == k_Kx1x1
  return (hit_KxBxT * jnp.asarray(token_mask_BxT)[None]).sum((1, 2))


# ---------------------------------------------------------------- weights


def base_weights(
  kind: str,
  cells: Sequence[tuple[int, int]],
  *,
  chosen: Sequence[tuple[int, float]] = (),
  matrix: Sequence[Sequence[float]] = (),
  e_scale: float = 0.2,
) -> tuple[float, ...]:
  """Unscheduled, unnormalised loss weight of each readout.

  Args:
    kind: final (one-hot), segment_ends (the last layer of every segment),
      uniform, linear (proportional to the layer), layerskip (Elhoushi et al.
      2404.16710, eq. of e(l)), chosen (weights of single layers), matrix
      (W[S, L]). All but final and matrix are the same in every segment.
    cells: the readouts.
    chosen: (layer, weight) pairs; other readouts weigh nothing.
    matrix: one row of L weights per segment.
    e_scale: layerskip's scale of the early layers.
  """
  depth = cells[-1][1]
  last = len(cells) - 1

  def weight(k: int, segment: int, layer: int) -> float:
    if kind == 'final':
      return float(k == last)
    if kind == 'segment_ends':
      return float(layer == depth)
    if kind == 'uniform':
      return 1.0
    if kind == 'linear':
      return layer / depth
    if kind == 'layerskip':
      early = e_scale * sum(range(min(layer, depth - 1)))
      return early + (depth - 1 if layer == depth else 0)
    if kind == 'chosen':
      return float(dict(chosen).get(layer, 0.0))
    if kind == 'matrix':
      return float(matrix[segment - 1][layer - 1])
    raise ValueError(f'unknown loss weights {kind!r}')

  return tuple(weight(k, s, l) for k, (s, l) in enumerate(cells))


def schedule_factors(
  kind: str, step: jax.Array, num_readouts: int, steps: int, every: int = 1
) -> jax.Array:
  """Factor [K] on each readout's weight at `step`; the last is always 1.

  Args:
    kind: constant; linear_warmup and cosine_warmup from 0 over `steps`
      (EE-LLM 2312.04916); rotate: every `every`-th readout is on, shifted by
      one each step, and gradual: one more from the top until all are on at
      `steps` (LayerSkip 2404.16710, C_rot and C_grad); switch_off: readout k
      of K stops at k/K of `steps` (Al-Rfou et al. 1808.04444).
    step: the current update, counted from 0.
    num_readouts: K.
    steps: length of the schedule in updates.
    every: period of rotate.
  """
  k_K = jnp.arange(num_readouts)
  ones_K = jnp.ones(num_readouts)
  fraction = jnp.minimum(step / max(steps, 1), 1.0)
  if kind == 'constant':
    factor_K = ones_K
  elif kind == 'linear_warmup':
    factor_K = fraction * ones_K
  elif kind == 'cosine_warmup':
    factor_K = 0.5 * (1 - jnp.cos(math.pi * fraction)) * ones_K
  elif kind == 'rotate':
    factor_K = (k_K % every == step % every).astype(jnp.float32)
  elif kind == 'gradual':
    from_top_K = num_readouts - 1 - k_K
    factor_K = (from_top_K <= fraction * num_readouts).astype(jnp.float32)
  elif kind == 'switch_off':
    factor_K = (fraction < (k_K + 1) / num_readouts).astype(jnp.float32)
  else:
    raise ValueError(f'unknown loss schedule {kind!r}')
  return factor_K.at[-1].set(1.0)
