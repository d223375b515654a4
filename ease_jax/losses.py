"""The grid loss: a weighted sum of cross-entropies over the readouts."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from ease_jax import grid
from ease_jax.readout import linear_cross_entropy, observe


@dataclasses.dataclass(frozen=True)
class LossSpec:
  """Which readout weighs what, when, and on which share of the tokens.

  Attributes:
    weight_K: unscheduled weight of each readout.
    schedule: see `grid.schedule_factors`.
    schedule_steps: its length in updates.
    rotate_every: period of the rotating schedule.
    normalize: none, or sum_to_one after the schedule was applied.
    token_fraction: random share of tokens for intermediate readouts.
    exit_threshold: tokens whose maximum probability at a readout reaches it
      stop there, as under `copy_state` at inference; 0 = none do.
    exit_rows: share of the rows in which they do.
  """

  weight_K: tuple[float, ...]
  schedule: str = 'constant'
  schedule_steps: int = 0
  rotate_every: int = 1
  normalize: str = 'none'
  token_fraction: float = 1.0
  exit_threshold: float = 0.0
  exit_rows: float = 0.5

  @classmethod
  def from_config(cls, config: Any) -> 'LossSpec':
    c, model = config.loss, config.model
    readouts = tuple(model.readouts) or range(1, model.num_layers + 1)
    weight_K = grid.base_weights(
        c.weights, [(1, layer) for layer in readouts], chosen=c.chosen,
        matrix=c.matrix, e_scale=c.e_scale)  # pyformat: disable
    return cls(
        weight_K, c.schedule, c.schedule_steps, c.rotate_every, c.normalize,
        c.token_fraction, c.exit_threshold, c.exit_rows)  # pyformat: disable

  def weights_at(self, step: jax.Array) -> jax.Array:
    """Weight of each readout at an update, [K] float32."""
    num = len(self.weight_K)
    weight_K = jnp.asarray(self.weight_K) * grid.schedule_factors(
        self.schedule, step, num, self.schedule_steps, self.rotate_every)
    if self.normalize == 'sum_to_one':
      weight_K /= weight_K.sum()
    return weight_K

  def supervised_fraction(self) -> list[float]:
    """Share of tokens each readout's head works on, schedule ignored.

    A head that only decides on an exit is a forward pass: a third of one that
    is trained.
    """
    last = len(self.weight_K) - 1
    decides = 1 / 3 if self.exit_threshold else 0.0
    return [
        float(weight > 0) * (1.0 if k == last else self.token_fraction)
        + (decides if k < last else 0.0)
        for k, weight in enumerate(self.weight_K)
    ]  # pyformat: disable


def _some_tokens(key, fraction, *arrays_N):
  """A random share of the tokens, the same ones from every array."""
  num = arrays_N[0].shape[0]
  keep_N = jax.random.permutation(key, num)[: math.ceil(fraction * num)]
  return tuple(x[keep_N] for x in arrays_N)


def readout_loss(n_NxD, w_VxD, target_N, mask_N) -> jax.Array:
  """Mean cross-entropy over unmasked tokens, nats."""
  weight_N = mask_N / jnp.maximum(mask_N.sum(), 1.0)
  return linear_cross_entropy(n_NxD, w_VxD, target_N, weight_N)


def _stops(bound: Any, spec: LossSpec, batch: Any) -> Any:
  """Which tokens stop at a readout while training; see `Stack.states`.

  Training on the exits that inference will take (Elbayad et al. 1910.10073,
  eq. 5, with confident tokens in place of sampled ones) teaches deeper layers
  to read frozen states; the other rows keep full depth as good as it was.
  """
  if spec.exit_threshold == 0:
    return None
  rows = len(batch['tokens'])
  row_Bx1 = (jnp.arange(rows) < round(spec.exit_rows * rows))[:, None]

  def stops(k: int, h_BxTxD: jax.Array) -> jax.Array:
    h_BxTxD = jax.lax.stop_gradient(h_BxTxD)
    obs = observe(
        (h_BxTxD, bound.normed(k, h_BxTxD)), None, batch['targets'],
        bound.unembedding())  # pyformat: disable
    return (obs.max_prob >= spec.exit_threshold) & row_Bx1

  return stops


def grid_loss(
    params: Any, model: Any, spec: LossSpec, batch: Any, step: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:  # pyformat: disable
  """J = sum_k W_k(step) * mean cross-entropy at readout k, in nats.

  Readouts of weight 0 cost nothing: never weighted ones are not in the
  program, and ones that the schedule switches off are skipped when it runs.
  With all weight on the last readout this is a standard language model.
  Where tokens stop early (`exit_threshold`), a deeper readout's loss is that of
  the readout which answered.

  Args:
    params: the model's parameters.
    model: a body with `states`, `normed` and `unembedding`.
    spec: the loss.
    batch: tokens, targets int32 and mask float32, each [B, T].
    step: the update's number, from 0.
    key: for dropout and the choice of tokens.

  Returns:
    The loss, and metrics: loss, loss_final, weight_sum and loss of each
    readout that was supervised (`loss_k`, 1-based).
  """
  drop_key, choice_key = jax.random.split(key)
  deterministic = model.cfg.dropout == 0
  bound = model.bind({'params': params}, rngs={'dropout': drop_key})
  stops = _stops(bound, spec, batch)
  state_K = bound.states(batch['tokens'], deterministic, stops)
  w_VxD = bound.unembedding()
  target_N, mask_N = batch['targets'].reshape(-1), batch['mask'].reshape(-1)
  weight_K, last = spec.weights_at(step), len(state_K) - 1
  total, metrics = jnp.float32(0), {}
  for k, h_BxTxD in enumerate(state_K):
    if spec.weight_K[k] == 0:
      continue
    n_NxD = bound.normed(k, h_BxTxD).reshape(-1, h_BxTxD.shape[-1])
    args = n_NxD, target_N, mask_N
    if k < last and spec.token_fraction < 1:
      choice_key, use_key = jax.random.split(choice_key)
      args = _some_tokens(use_key, spec.token_fraction, *args)
    n_NxD, k_target_N, k_mask_N = args
    if k < last and spec.schedule != 'constant':
      loss = jax.lax.cond(
          weight_K[k] > 0, readout_loss, lambda *_: jnp.float32(0),
          n_NxD, w_VxD, k_target_N, k_mask_N)  # pyformat: disable
    else:
      loss = readout_loss(n_NxD, w_VxD, k_target_N, k_mask_N)
    metrics[f'loss_{k + 1}'] = loss
    total += weight_K[k] * loss
  metrics |= {
      'loss': total,
      'loss_final': metrics.get(f'loss_{last + 1}', jnp.float32(0)),
      'weight_sum': weight_K.sum(),
  }
  return total, metrics
