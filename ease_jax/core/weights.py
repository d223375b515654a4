"""Weights of the readouts in the grid loss, and how they change over time."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from ease_jax.checks import NotNegative, OneOf, ReadIf, check_fields, need

# (names of the readouts, section `loss` of the config) -> a weight for each.
Names = Sequence[tuple[int, int]]
Weigh = Callable[[Names, Mapping[str, Any]], list[float]]


def _final(names_K: Names, loss: Mapping[str, Any]) -> list[float]:
  del loss
  return [0.0] * (len(names_K) - 1) + [1.0]


def _segment_ends(names_K: Names, loss: Mapping[str, Any]) -> list[float]:
  del loss
  end = names_K[-1][1]
  return [float(layer == end) for _, layer in names_K]


def _uniform(names_K: Names, loss: Mapping[str, Any]) -> list[float]:
  del loss
  return [1.0] * len(names_K)


def _linear(names_K: Names, loss: Mapping[str, Any]) -> list[float]:
  """Proportional to the layer."""
  del loss
  end = names_K[-1][1]
  return [layer / end for _, layer in names_K]


def _layerskip(names_K: Names, loss: Mapping[str, Any]) -> list[float]:
  """e(l) of Elhoushi et al. 2404.16710."""
  end = names_K[-1][1]
  weights = []

  for _, layer in names_K:
    early = loss['e_scale'] * sum(range(min(layer, end - 1)))
    last = end - 1 if layer == end else 0
    weights.append(float(early + last))

  return weights


def _chosen(names_K: Names, loss: Mapping[str, Any]) -> list[float]:
  chosen = dict(loss['chosen'])
  layers = [layer for _, layer in names_K]
  need(len(chosen) > 0, 'loss.weights=chosen needs loss.chosen')
  need(
    len(chosen) == len(loss['chosen']),
    f'loss.chosen={loss["chosen"]} names a layer twice; give each one weight',
  )
  for layer in chosen:
    need(
      layer in layers,
      f'loss.chosen names layer {layer}, which is not in model.readouts='
      f'{tuple(sorted(set(layers)))}; add it there',
    )
  return [float(chosen.get(layer, 0.0)) for layer in layers]


def _matrix(names_K: Names, loss: Mapping[str, Any]) -> list[float]:
  rows = [tuple(row) for row in loss['matrix']]
  segments, length = names_K[-1]
  need(
    len(rows) == segments and all(len(row) == length for row in rows),
    f'loss.matrix has rows of {[len(row) for row in rows]} weights; it must '
    f'have model.segments={segments} rows of {length}, a weight for each '
    'layer that a segment runs',
  )
  for segment, row in enumerate(rows, 1):
    for layer, weight in enumerate(row, 1):
      need(
        weight == 0 or (segment, layer) in names_K,
        f'loss.matrix weighs layer {layer} with {weight}, which is not in '
        f'model.readouts={tuple(sorted({l for _, l in names_K}))}; add it '
        'there',
      )
  return [float(rows[segment - 1][layer - 1]) for segment, layer in names_K]


# All but final and matrix are the same in every segment.
WEIGHTS: dict[str, Weigh] = {
  'final': _final,  # one-hot: the last readout alone
  'segment_ends': _segment_ends,  # the last layer of every segment
  'uniform': _uniform,
  'linear': _linear,
  'layerskip': _layerskip,
  'chosen': _chosen,  # single layers, `loss.chosen`
  'matrix': _matrix,  # W[S, L], `loss.matrix`
}


@dataclasses.dataclass(frozen=True)
class WeightSpec:
  """The fields of section `loss` that weights are made of.

  Attributes:
    weights: of WEIGHTS.
    chosen: (layer, weight) of single layers.
    matrix: a row of weights for each segment, one for each layer.
    e_scale: scale of early layers.
  """

  weights: Annotated[str, OneOf(WEIGHTS)]
  chosen: Annotated[
    tuple[tuple[int, NotNegative], ...], ReadIf('weights', ('chosen',))
  ]
  matrix: Annotated[
    tuple[tuple[NotNegative, ...], ...], ReadIf('weights', ('matrix',))
  ]
  e_scale: Annotated[NotNegative, ReadIf('weights', ('layerskip',))]

  def __post_init__(self):
    check_fields('loss', self)


# (share of the schedule that is over, number of the update, K, period)
# -> factor on each readout's weight, [K]
Schedule = Callable[[jax.Array, jax.Array, int, int], jax.Array]


def _constant(
  fraction: jax.Array, step: jax.Array, num: int, every: int
) -> jax.Array:
  del fraction, step, every
  return jnp.ones(num)


def _linear_warmup(
  fraction: jax.Array, step: jax.Array, num: int, every: int
) -> jax.Array:
  del step, every
  return fraction * jnp.ones(num)


def _cosine_warmup(
  fraction: jax.Array, step: jax.Array, num: int, every: int
) -> jax.Array:
  del step, every
  return 0.5 * (1 - jnp.cos(math.pi * fraction)) * jnp.ones(num)


def _rotate(
  fraction: jax.Array, step: jax.Array, num: int, every: int
) -> jax.Array:
  del fraction
  return (jnp.arange(num) % every == step % every).astype(jnp.float32)


def _gradual(
  fraction: jax.Array, step: jax.Array, num: int, every: int
) -> jax.Array:
  del step, every
  from_top_K = num - 1 - jnp.arange(num)
  return (from_top_K <= fraction * num).astype(jnp.float32)


def _switch_off(
  fraction: jax.Array, step: jax.Array, num: int, every: int
) -> jax.Array:
  del step, every
  return (fraction < (jnp.arange(num) + 1) / num).astype(jnp.float32)


SCHEDULES: dict[str, Schedule] = {
  'constant': _constant,
  'linear_warmup': _linear_warmup,  # from 0 (EE-LLM, 2312.04916)
  'cosine_warmup': _cosine_warmup,
  # Every `every`-th readout, shifted by one each step; one more from the top
  # until all are on (LayerSkip 2404.16710, C_rot and C_grad).
  'rotate': _rotate,
  'gradual': _gradual,
  # Readout k of K stops at k/K of the steps (Al-Rfou et al. 1808.04444).
  'switch_off': _switch_off,
}
TIMELESS = ('constant', 'rotate')  # schedules without a length


def schedule_factors(
  kind: str, step: jax.Array, num_readouts: int, steps: int, every: int = 1
) -> jax.Array:
  """Factor on each readout's weight at an update, [K]; the last is always 1.

  Args:
    kind: of SCHEDULES.
    step: the current update, counted from 0.
    num_readouts: K.
    steps: length of the schedule in updates.
    every: period of rotate.
  """
  fraction = jnp.minimum(step / max(steps, 1), 1.0)
  factor_K = SCHEDULES[kind](fraction, step, num_readouts, every)
  return factor_K.at[-1].set(1.0)
