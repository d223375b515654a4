"""Parameters of modules, read without tracing what initialises them."""

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp


def parameter(
  module: nn.Module,
  name: str,
  init: nn.initializers.Initializer,
  shape: tuple[int, ...],
) -> jax.Array:
  """A float32 parameter of a module, as `module.param` would give it.

  That traces `init` again whenever it reads the parameter, only to learn the
  shape: half of all that tracing a model takes.

  Raises:
    flax.errors.ScopeParamShapeError: if it has another shape.
  """
  if not module.has_variable('params', name):
    return module.param(name, init, shape, jnp.float32)
  value = module.get_variable('params', name)
  if value.shape != shape:
    place = '/' + '/'.join(module.path)
    raise flax.errors.ScopeParamShapeError(name, place, value.shape, shape)
  return value
