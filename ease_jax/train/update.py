"""One update of the parameters: pure functions of state, batch and key."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ease_jax.core.weights import LossSpec
from ease_jax.train import loss as losses
from ease_jax.train import optimizer
from ease_jax.train.optimizer import OptimizerSpec


class TrainState(NamedTuple):
  """All that an update changes."""

  step: jax.Array  # [] int32: updates done
  params: Any
  opt_state: Any


@functools.partial(jax.jit, static_argnames=('model', 'opt_spec'))
def init_state(
  key: jax.Array, *, model: Any, opt_spec: OptimizerSpec
) -> TrainState:
  """The state before the first update."""
  params = model.init(key, jnp.zeros((1, 2), jnp.int32))['params']
  opt_state = optimizer.build(opt_spec).init(params)
  return TrainState(jnp.zeros((), jnp.int32), params, opt_state)


def abstract_state(model: Any, opt_spec: OptimizerSpec) -> TrainState:
  """Shapes and types of the state, nothing computed."""
  init = functools.partial(init_state, model=model, opt_spec=opt_spec)
  return jax.eval_shape(init, jax.random.key(0))


def mean_gradient(
  params: Any,
  batch: Any,
  step: jax.Array,
  key: jax.Array,
  *,
  model: Any,
  loss_spec: LossSpec,
  accumulate: int,
) -> tuple[Any, dict[str, jax.Array]]:
  """Gradient and metrics of a batch, micro-batch by micro-batch.

  Each micro-batch counts by its unmasked tokens, so that the result is the
  whole batch's, up to rounding.
  """
  grad_fn = losses.grid_gradient
  if accumulate == 1:
    return grad_fn(params, model, loss_spec, batch, step, key)
  micro = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)
  weight_A = micro['mask'].sum((1, 2))
  weight_A /= jnp.maximum(weight_A.sum(), 1.0)

  def one(number_and_part):
    number, part, weight = number_and_part
    out = grad_fn(
      params, model, loss_spec, part, step, jax.random.fold_in(key, number)
    )
    return jax.tree.map(lambda x: weight * x, out)

  def add(total, x):
    return jax.tree.map(jnp.add, total, one(x)), None

  xs = jnp.arange(accumulate), micro, weight_A
  shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], xs))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  return jax.lax.scan(add, zeros, xs)[0]


@functools.partial(
  jax.jit,
  donate_argnames='state',
  static_argnames=('model', 'loss_spec', 'opt_spec', 'accumulate'),
)
def train_step(
  state: TrainState,
  batch: Any,
  key: jax.Array,
  *,
  model: Any,
  loss_spec: LossSpec,
  opt_spec: OptimizerSpec,
  accumulate: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """The update of one batch, or one for each of its segments.

  Args:
    state: before it; donated.
    batch: tokens, targets int32 and mask float32, each [B, T].
    key: the run's; the update's own key is derived from it and the step.
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
      state, batch, step_key, model, loss_spec, opt_spec
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
    )
    params, opt_state = _apply(grads, state.opt_state, state.params, opt_spec)
    metrics['grad_norm'] = optax.tree.norm(grads)
  metrics |= {
    'param_norm': optax.tree.norm(params),
    'learning_rate': optimizer.learning_rate(
      opt_spec, state.step * opt_spec.updates_per_step
    ),
  }
  return TrainState(state.step + 1, params, opt_state), metrics


def _apply(grads, opt_state, params, opt_spec) -> tuple[Any, Any]:
  updates, opt_state = optimizer.build(opt_spec).update(
    grads, opt_state, params
  )
  return optax.apply_updates(params, updates), opt_state


def _update_per_segment(
  state, batch, key, model, loss_spec, opt_spec
) -> tuple[Any, Any, dict[str, jax.Array]]:
  """As IRT and HRM train: each segment's loss moves the parameters at once.

  The next segment starts from the state that the old parameters made.
  """
  grad = jax.grad(
    functools.partial(
      losses.segment_loss, model=model, spec=loss_spec, batch=batch
    ),
    has_aux=True,
  )

  def one(carry, x):
    params, opt_state, progress = carry
    grads, (progress, part) = grad(params, progress, *x)
    params, opt_state = _apply(grads, opt_state, params, opt_spec)
    return (params, opt_state, progress), (part, optax.tree.norm(grads))

  start = losses.first_progress(state.params, model, batch)
  (params, opt_state, _), (parts, norm_S) = jax.lax.scan(
    one,
    (state.params, state.opt_state, start),
    losses.segments(loss_spec, state.step, key),
  )
  metrics = losses.metrics(loss_spec, parts, state.step)
  return params, opt_state, metrics | {'grad_norm': norm_S.max()}
