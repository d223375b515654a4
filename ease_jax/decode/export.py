"""A decoder in one file, which runs with jax and flatbuffers alone.

    import jax, numpy as np
    from jax import export
    run = export.deserialize(bytearray(open('decoder.jax', 'rb').read())).call
    tokens, exits, live = run(prompt_BxC, length_B, np.uint32(0))

Prompts are right-aligned; of the new tokens [B, N] those that are not live came
after the end of their row.
"""

import importlib.util

import jax
import jax.export  # not loaded by `import jax`
import jax.numpy as jnp

from ease_jax.checks import need
from ease_jax.core.policies import OperatingPoint, thresholds
from ease_jax.decode import heads, loop
from ease_jax.decode import step as steps
from ease_jax.decode.options import Options
from ease_jax.model import Body, Params


def exported(
  model: Body,
  params: Params,
  point: OperatingPoint | None,
  *,
  options: Options,
  batch_size: int = 1,
) -> bytes:
  """The bytes of such a file for the platform this runs on.

  The parameters are inside: a protocol buffer holds less than 2 GB of them.

  Args:
    model, params, point, options: as in `generate`; a given seed takes the
      place of the options' one, and there are no chunks.
    batch_size: B.

  Raises:
    ConfigError: `flatbuffers`, which is optional, is not installed, or a model
      cannot be decoded with such exits.
  """
  rule = loop.rule_of(point)
  heads.check(model, rule)
  need(
    importlib.util.find_spec('flatbuffers') is not None,
    'an exported decoder needs the package flatbuffers, which is not '
    "installed; pip install 'ease_jax[export]'",
  )
  threshold_K = thresholds(point, model.grid.num_readouts)
  length = options.context
  num = min(options.max_new_tokens, length - 1)  # after a prompt of one token
  slot = max(length - 1, loop.least_slot(point))

  def run(prompt_BxC: jax.Array, length_B: jax.Array, seed: jax.Array):
    room = slot - (length - 1)
    before_BxT = jnp.pad(prompt_BxC[:, :-1], ((0, 0), (room, 0)))
    cache = steps.prefill(
      params,
      before_BxT,
      length_B - 1,
      threshold_K,
      slots=slot + num,
      model=model,
      rule=rule if options.prefill == 'exits' else None,
    )
    rows = loop.start(
      model,
      point,
      prompt_BxC[:, -1],
      length_B - 1,
      loop.end(length_B, options),
      seed,
    )
    history, _, _ = steps.many_steps(
      params,
      cache,
      rows,
      jnp.int32(slot),
      threshold_K,
      loop.eos(options),
      num=num,
      model=model,
      rule=rule,
      sampling=options.sampling,
    )
    return history.token_B.T, history.exit_B.T, history.live_B.T

  program = jax.export.export(jax.jit(run))(
    jax.ShapeDtypeStruct((batch_size, length), jnp.int32),
    jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    jax.ShapeDtypeStruct((), jnp.uint32),
  )
  return bytes(program.serialize())
