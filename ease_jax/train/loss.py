"""The grid loss: a weighted sum of the readouts' losses over all segments."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from ease_jax.core.objective import LossSpec
from ease_jax.model import Body, Params
from ease_jax.model.sight import places_of
from ease_jax.model.walk import State, Travel, walk
from ease_jax.train import rows, scan, shortcut
from ease_jax.train.freezing import held
from ease_jax.train.gates import learn_from_grid
from ease_jax.train.scan import Carry
from ease_jax.train.segment import (
  Progress,
  SegmentLosses,
  begin,
  first_progress,
  segment_loss,
)
from ease_jax.train.setting import Part, Setting, prepared
from ease_jax.train.targets import Batch, Teacher

Metrics = dict[str, jax.Array]


def metrics(
  spec: LossSpec,
  losses: SegmentLosses,
  step: jax.Array,
  learned: Mapping[str, jax.Array] | None = None,
) -> Metrics:
  """Scalars of an update.

  loss, loss_final, weight_sum, loss of each supervised readout (`loss_k`,
  1-based), of each learned signal (`loss_NAME`) and of all routers
  (`loss_routers`).

  Args:
    spec: the loss.
    losses: of the segments, stacked [S, ...].
    step: the update's number, from 0.
    learned: losses of gates that learn from the whole grid.
  """
  loss_K = losses.readout_R.reshape(-1)
  weight_K = spec.weights_at(step)
  named = {f'loss_{k + 1}': loss_K[k] for k, w in enumerate(spec.weight_K) if w}
  total = weight_K @ loss_K
  if losses.routers is not None:
    named['loss_routers'] = losses.routers.mean()
    total += losses.routers.sum()

  for name, loss_S in losses.gates.items():
    named[f'loss_{name}'] = loss_S.mean()
    total += spec.gate_scale * loss_S.sum()
  for name, loss in (learned or {}).items():
    named[f'loss_{name}'] = loss
    total += spec.gating.gate_weight * loss

  return named | {
    'loss': total,
    'loss_final': loss_K[-1],
    'weight_sum': weight_K.sum(),
  }


def grid_loss(
  params: Params,
  model: Body,
  spec: LossSpec,
  batch: Batch,
  step: jax.Array,
  key: jax.Array,
  teacher: Teacher | None = None,
  before: jax.Array | None = None,
  way: jax.Array | None = None,
) -> tuple[jax.Array, Metrics]:
  """J = sum_k W_k(step) * mean loss at readout k, in nats.

  With all weight on the last readout this is a standard language model.
  Where tokens stop early (`exit_threshold`), a deeper readout's loss is that of
  the readout which answered. Gradients flow from one segment to the one
  before it among the last `carry_backprop` segments only. A shortcut adds what
  `core.shortcut` says, `loss_shortcut` and `shortcut_distance` of the metrics.

  Args:
    params: the model's parameters.
    model: a body.
    spec: the loss.
    batch: tokens, targets int32 and mask float32, each [B, T]; and
      `rows.RUNS`, [B], where each row runs its own number of segments.
    step: the update's number, from 0.
    key: of everything random in the update.
    teacher: of the target, where it has one beside the model.
    before: segments that run first and learn nothing; None = there are none.
    way: where the runs of a shortcut start, and the end, [m + 1] shares of the
      whole way; None = there is no shortcut.
  """
  params = held(params, spec.freeze)
  setting = prepared(params, model, spec, batch, key, teacher)
  started = begin(params, setting)
  progress = first_progress(model, batch)
  carried = {name: started[name] for name in progress.state}
  if before is not None:
    carried = run_before(params, model, batch, before, started, carried)

  progress = progress._replace(state=carried)
  segments = scan.parts(spec, step, key, before)
  ended, loss_S, losses = scan.joined(
    params, setting, started, progress, segments
  )
  bound = model.bind({'params': params})
  learned = learn_from_grid(bound, spec, batch, losses.told)
  loss = loss_S.sum() + spec.gating.gate_weight * sum(learned.values())
  named = metrics(spec, losses, step, learned)
  if way is None:
    return loss, named

  more, of_shortcut = shortcut.loss(
    params, setting, started, ended, way, step, key
  )
  named['loss'] += more
  return loss + more, named | of_shortcut


def run_before(
  params: Params,
  model: Body,
  batch: Batch,
  num: jax.Array,
  started: State,
  carried: State,
) -> State:
  """The carried streams after some segments that learn nothing.

  A gradient reaches what was before them only where there are none.

  Args:
    params: the model's parameters.
    model: a body with the segments that learn; without dropout and routers
      where any run.
    batch: tokens, [B, T]; runs of each row, where they have drawn their own.
    num: how many, a scalar; one program runs any number.
    started: the streams before the first segment.
    carried: those of them that a segment hands on.
  """
  fixed = jax.lax.stop_gradient((params, started, carried))
  fixed_params, fixed_started, fixed_carried = fixed
  bound = model.bind({'params': fixed_params})
  places = places_of(model.cfg, batch['tokens'])
  layer = bound.windows(places)

  def run(number: jax.Array, carried: State) -> State:
    left = num - number + model.grid.segments
    walked = walk(
      bound,
      model.grid.first,
      fixed_started | carried,
      rows.waiting(batch, left),
      layer=layer,
      travel=Travel(places.position_BxT, before=number),
    )
    return {name: walked.state[name] for name in carried}

  after = jax.lax.fori_loop(0, num, run, fixed_carried)

  has_begun = rows.begun(batch, num, model.grid.segments)

  def chosen(new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(has_begun, new, old)

  return jax.tree.map(chosen, after, carried)


def by_segment(
  carry: Carry,
  model: Body,
  spec: LossSpec,
  batch: Batch,
  step: jax.Array,
  key: jax.Array,
  teacher: Teacher | None,
  *,
  params_of: Callable[[Carry], Params],
  take: Callable[[Carry, Params], Carry],
) -> tuple[Carry, Metrics, jax.Array]:
  """Differentiates the segments one by one inside the scan.

  Memory does not grow with them, and nothing is computed twice.

  Args:
    carry: before the first segment.
    model, spec, batch, step, key, teacher: as in `grid_loss`.
    params_of: the parameters of a segment.
    take: (carry, gradient) -> the carry after a segment.

  Returns:
    The carry after the last one, the metrics, and the norm of each segment's
    gradient, [S].
  """
  setting = prepared(params_of(carry), model, spec, batch, key, teacher)

  def loss(
    params: Params, progress: Progress, part: Part, setting: Setting
  ) -> tuple[jax.Array, tuple[Progress, SegmentLosses]]:
    params = held(params, spec.freeze)
    return segment_loss(params, progress, part, setting)

  gradient = jax.grad(loss, has_aux=True)

  def one(
    state: tuple[Carry, Progress], part: Part
  ) -> tuple[tuple[Carry, Progress], tuple[SegmentLosses, jax.Array]]:
    carry, progress = state
    params = params_of(carry)
    grads, (progress, losses) = gradient(params, progress, part, setting)
    return (take(carry, grads), progress), (losses, optax.tree.norm(grads))

  start = carry, first_progress(model, batch)
  (carry, _), (losses, norm_S) = scan.over_segments(
    one, start, scan.parts(spec, step, key)
  )
  return carry, metrics(spec, losses, step), norm_S


def grid_gradient(
  params: Params,
  model: Body,
  spec: LossSpec,
  batch: Batch,
  step: jax.Array,
  key: jax.Array,
  teacher: Teacher | None = None,
  before: jax.Array | None = None,
  way: jax.Array | None = None,
) -> tuple[Params, Metrics]:
  """Gradient of `grid_loss`, and its metrics.

  Segments that no gradient joins are differentiated one by one.
  """
  if not spec.one_by_one or before is not None or way is not None:
    gradient = jax.grad(grid_loss, has_aux=True)
    return gradient(params, model, spec, batch, step, key, teacher, before, way)

  def added(total: Params, grads: Params) -> Params:
    return jax.tree.map(jnp.add, total, grads)

  zeros = jax.tree.map(jnp.zeros_like, params)
  grads, named, _ = by_segment(
    zeros,
    model,
    spec,
    batch,
    step,
    key,
    teacher,
    params_of=lambda total: params,
    take=added,
  )
  return grads, named
