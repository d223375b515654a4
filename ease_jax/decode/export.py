"""A decoder in one file, which runs without this package.

    import jax, numpy as np
    from jax import export
    run = export.deserialize(bytearray(open('decoder.jax', 'rb').read())).call
    tokens, exits, live = run(prompt_BxC, length_B, np.uint32(0))

Prompts are right-aligned; of the new tokens [B, N] those that are not live came
after the end of their row.
"""

import importlib.util
from typing import Any

import jax
import jax.export  # not loaded by `import jax`
import jax.numpy as jnp

from ease_jax.config import ConfigError
from ease_jax.decode import deferred, loop
from ease_jax.decode import step as steps
from ease_jax.sweep import Point


def exported(
    model: Any, params: Any, exit: Point | None, *, options: loop.Options,
    batch_size: int = 1,
) -> bytes:  # pyformat: disable
  """The bytes of such a file for the platform this runs on.

  The parameters are inside: a protocol buffer holds less than 2 GB of them.

  Args:
    model, params, exit, options: see `generate`; a given seed takes the place
      of the options' one, and there are no chunks.
    batch_size: B.

  Raises:
    ConfigError: `flatbuffers`, which is optional, is not installed.
  """
  if not importlib.util.find_spec('flatbuffers'):
    raise ConfigError(
        'an exported decoder needs the package flatbuffers, which is not '
        "installed; pip install 'ease_jax[export]'")
  threshold_K = jnp.asarray(
      (exit or loop.OFF).threshold_K(len(model.cfg.cells)))
  spec, length = exit.spec if exit else None, options.context

  def run(prompt_BxC, length_B, seed):
    cache = steps.prefill(
        params, prompt_BxC[:, :-1], length_B - 1, threshold_K,
        slots=length + options.max_new_tokens, model=model,
        spec=spec if options.prefill == 'exits' else None)
    rows = steps.Rows(
        prompt_BxC[:, -1], length_B - 1, jnp.zeros(batch_size, bool),
        jax.random.split(jax.random.key(seed), batch_size))
    if loop.defers(model, exit):
      rows = rows._replace(window=deferred.empty_window(model, batch_size))
    end_B = loop.end(length_B, options)
    out, _, _ = steps.many_steps(
        params, cache, rows, jnp.int32(length - 1), threshold_K, end_B,
        loop.eos(options), num=options.max_new_tokens, model=model, spec=spec,
        sampling=options.sampling)
    return out.token_B.T, out.exit_B.T, out.live_B.T

  shape = jax.ShapeDtypeStruct
  made = jax.export.export(jax.jit(run))(
      shape((batch_size, length), jnp.int32), shape((batch_size,), jnp.int32),
      shape((), jnp.uint32))
  return bytes(made.serialize())
