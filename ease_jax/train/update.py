"""One update of the parameters: pure functions of state, batch and key."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from ease_jax import arrays, sharding
from ease_jax.core.objective import LossSpec
from ease_jax.model import Body, Params
from ease_jax.train import loss, optimizer
from ease_jax.train.loss import Metrics
from ease_jax.train.optimizer import OptimizerSpec
from ease_jax.train.targets import Batch, Teacher

OptState = Any  # of an optax transformation


class TrainState(NamedTuple):
  """All that an update changes."""

  step: jax.Array  # [] int32: updates done
  params: Params
  opt_state: OptState


@functools.partial(jax.jit, static_argnames=('model', 'opt_spec'))
def init_state(
  key: jax.Array, *, model: Body, opt_spec: OptimizerSpec
) -> TrainState:
  """The state before the first update; on a mesh no device makes all of it."""
  params = model.init(key, jnp.zeros((1, 2), jnp.int32))['params']
  opt_state = optimizer.build(opt_spec).init(params)
  state = TrainState(jnp.zeros((), jnp.int32), params, opt_state)
  return sharding.placed(state)


def first_state(
  key: jax.Array,
  model: Body,
  opt_spec: OptimizerSpec,
  initial: Params | None,
  fit: Callable[[Params], Params] | None,
) -> TrainState:
  """The state before the first update, some of its parameters given.

  Args:
    key: of those that are random.
    model: a body.
    opt_spec: the optimizer.
    initial: parameters of other runs, those of a layer one by one; None = all
      are random.
    fit: changes the parameters; None = they stay.
  """
  state = init_state(key, model=model, opt_spec=opt_spec)
  given = flatten_dict(arrays.put_state(initial or {}))
  params = unflatten_dict(flatten_dict(state.params) | given)
  return state._replace(params=fit(params) if fit else params)


def abstract_state(model: Body, opt_spec: OptimizerSpec) -> TrainState:
  """Shapes and types of the state, nothing computed."""
  init = functools.partial(init_state, model=model, opt_spec=opt_spec)
  return jax.eval_shape(init, jax.random.key(0))


def mean_gradient(
  params: Params,
  batch: Batch,
  step: jax.Array,
  key: jax.Array,
  *,
  model: Body,
  loss_spec: LossSpec,
  accumulate: int,
  teacher: Teacher | None = None,
  before: jax.Array | None = None,
  way: jax.Array | None = None,
) -> tuple[Params, Metrics]:
  """Gradient and metrics of a batch, micro-batch by micro-batch.

  Each micro-batch counts by its unmasked tokens, so that the result is the
  whole batch's, up to rounding.

  Args:
    params: the model's parameters.
    batch: tokens, targets and mask, each [B, T].
    step: the update's number, from 0.
    key: of everything random in the update.
    model: a body.
    loss_spec: the loss.
    accumulate: micro-batches, divides B.
    teacher: of the loss's target, where it has one beside the model.
    before: segments that run first and learn nothing; None = there are none.
    way: of a shortcut, as in `grid_loss`; None = there is none.
  """
  if accumulate == 1:
    return _gradient(
      params, model, loss_spec, batch, step, key, teacher, before, way
    )

  def split(x: jax.Array) -> jax.Array:
    # Rows take turns, so that each part has its share of the first ones, which
    # `loss.exit_rows` counts.
    x = x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1)
    return sharding.constrain(x, None, sharding.ROWS)

  micro = jax.tree.map(split, dict(batch))
  weight_A = micro['mask'].sum((1, 2))
  weight_A /= jnp.maximum(weight_A.sum(), 1.0)

  def weighted(numbered):
    number, part, weight = numbered
    part_key = jax.random.fold_in(key, number)
    result = _gradient(
      params, model, loss_spec, part, step, part_key, teacher, before, way
    )
    return jax.tree.map(functools.partial(jnp.multiply, weight), result)

  def add(total, numbered):
    return jax.tree.map(jnp.add, total, weighted(numbered)), None

  numbered = jnp.arange(accumulate), micro, weight_A
  first = jax.tree.map(lambda x: x[0], numbered)
  shapes = jax.eval_shape(weighted, first)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  zeros = sharding.placed(zeros)
  total, _ = jax.lax.scan(add, zeros, numbered)
  return total


def _gradient(params: Params, *setting: Any) -> tuple[Params, Metrics]:
  """`grid_gradient`, its gradient spread over a mesh as the parameters are."""
  grads, metrics = loss.grid_gradient(params, *setting)
  return sharding.placed(grads), metrics


@functools.partial(
  jax.jit,
  donate_argnames='state',
  static_argnames=('model', 'loss_spec', 'opt_spec', 'accumulate'),
)
def train_step(
  state: TrainState,
  batch: Batch,
  key: jax.Array,
  teacher: Teacher | None = None,
  before: jax.Array | None = None,
  way: jax.Array | None = None,
  *,
  model: Body,
  loss_spec: LossSpec,
  opt_spec: OptimizerSpec,
  accumulate: int,
) -> tuple[TrainState, Metrics]:
  """The update of one batch, or one for each of its segments.

  Args:
    state: before it; donated.
    batch: tokens, targets int32 and mask float32, each [B, T].
    key: the run's; the update's own key is derived from it and the step.
    teacher: of the loss's target, where it has one beside the model.
    before: segments that run first and learn nothing; None = there are none.
    way: of a shortcut, as in `grid_loss`; None = there is none.
    model: a body.
    loss_spec: the loss; says whether segments are updates of their own.
    opt_spec: the optimizer.
    accumulate: micro-batches, divides B.

  Returns:
    The state after it, and scalars: those of the loss, grad_norm (before
    clipping; the largest of the segments'), param_norm (after the update),
    learning_rate.
  """
  step_key = jax.random.fold_in(key, state.step)

  if loss_spec.per_segment:
    params, opt_state, metrics = _update_per_segment(
      state, batch, step_key, teacher, model, loss_spec, opt_spec
    )
  else:
    grads, metrics = mean_gradient(
      state.params,
      batch,
      state.step,
      step_key,
      model=model,
      loss_spec=loss_spec,
      accumulate=accumulate,
      teacher=teacher,
      before=before,
      way=way,
    )
    params, opt_state = _apply(grads, state.opt_state, state.params, opt_spec)
    metrics['grad_norm'] = optax.tree.norm(grads)

  updates_done = state.step * opt_spec.updates_per_step
  metrics['param_norm'] = optax.tree.norm(params)
  metrics['learning_rate'] = optimizer.learning_rate(opt_spec, updates_done)
  state = TrainState(state.step + 1, params, opt_state)
  return sharding.placed(state), metrics


@jax.named_scope('optimizer')
def _apply(
  grads: Params,
  opt_state: OptState,
  params: Params,
  opt_spec: OptimizerSpec,
) -> tuple[Params, OptState]:
  rule = optimizer.build(opt_spec)
  updates, opt_state = rule.update(grads, opt_state, params)
  return optax.apply_updates(params, updates), opt_state


def _update_per_segment(
  state: TrainState,
  batch: Batch,
  key: jax.Array,
  teacher: Teacher | None,
  model: Body,
  loss_spec: LossSpec,
  opt_spec: OptimizerSpec,
) -> tuple[Params, OptState, Metrics]:
  """As IRT and HRM train: each segment's loss moves the parameters at once.

  The next segment starts from the state that the old parameters made.
  """

  def params_of(trained: tuple[Params, OptState]) -> Params:
    return trained[0]

  def take(
    trained: tuple[Params, OptState], grads: Params
  ) -> tuple[Params, OptState]:
    params, opt_state = trained
    return _apply(grads, opt_state, params, opt_spec)

  (params, opt_state), metrics, norm_S = loss.by_segment(
    (state.params, state.opt_state),
    model,
    loss_spec,
    batch,
    state.step,
    key,
    teacher,
    params_of=params_of,
    take=take,
  )
  metrics['grad_norm'] = norm_S.max()
  return params, opt_state, metrics
