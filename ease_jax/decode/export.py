"""A decoder in one file, which runs with jax and flatbuffers alone.

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
from ease_jax.decode import loop
from ease_jax.decode import step as steps
from ease_jax.evaluate.sweep import Point


def exported(
  model: Any,
  params: Any,
  exit: Point | None,
  *,
  options: loop.Options,
  batch_size: int = 1,
) -> bytes:
  """The bytes of such a file for the platform this runs on.

  The parameters are inside: a protocol buffer holds less than 2 GB of them.

  Args:
    model, params, exit, options: see `generate`; a given seed takes the place
      of the options' one, and there are no chunks.
    batch_size: B.

  Raises:
    ConfigError: `flatbuffers`, which is optional, is not installed, or see
      `generate`.
  """
  loop.check_exit(model, exit)
  if not importlib.util.find_spec('flatbuffers'):
    raise ConfigError(
      'an exported decoder needs the package flatbuffers, which is not '
      "installed; pip install 'ease_jax[export]'"
    )
  threshold_K = loop.thresholds(model, exit)
  spec, length = exit.spec if exit else None, options.context
  num = min(options.max_new_tokens, length - 1)  # after a prompt of one token
  slot = max(length - 1, loop.least_slot(model, exit))

  def run(prompt_BxC, length_B, seed):
    before_BxT = jnp.pad(prompt_BxC[:, :-1], ((0, 0), (slot - (length - 1), 0)))
    cache = steps.prefill(
      params,
      before_BxT,
      length_B - 1,
      threshold_K,
      slots=slot + num,
      model=model,
      spec=spec if options.prefill == 'exits' else None,
    )
    rows = loop.start(
      model,
      exit,
      prompt_BxC[:, -1],
      length_B - 1,
      loop.end(length_B, options),
      seed,
    )
    out, _, _ = steps.many_steps(
      params,
      cache,
      rows,
      jnp.int32(slot),
      threshold_K,
      loop.eos(options),
      num=num,
      model=model,
      spec=spec,
      sampling=options.sampling,
    )
    return out.token_B.T, out.exit_B.T, out.live_B.T

  shape = jax.ShapeDtypeStruct
  made = jax.export.export(jax.jit(run))(
    shape((batch_size, length), jnp.int32),
    shape((batch_size,), jnp.int32),
    shape((), jnp.uint32),
  )
  return bytes(made.serialize())
