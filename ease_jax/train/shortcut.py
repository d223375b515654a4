"""The loss of a shortcut (`core.shortcut`): fewer runs, each a longer step."""

import jax
import jax.numpy as jnp

from ease_jax.model import Params, with_segments
from ease_jax.model.walk import RUNNING, State
from ease_jax.train import scan
from ease_jax.train.segment import Progress, first_progress
from ease_jax.train.setting import Setting, prepared


def loss(
  params: Params,
  setting: Setting,
  started: State,
  ended: Progress,
  way: jax.Array,
  step: jax.Array,
  key: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """What a shortcut adds to the loss of an update, nats.

  Args:
    params: the model's parameters.
    setting: of the long way.
    started: the streams before both.
    ended: behind the long way.
    way: where the runs of the shortcut start, and the end, [m + 1] shares of
      the whole way.
    step: the update's number, from 0.
    key: of everything random in the update.

  Returns:
    The sum, and both parts by name.
  """
  runs = len(way) - 1
  model = with_segments(setting.model, runs)
  spec = setting.spec.of_segments(runs)
  # Neither dropout nor first states are those of the long way.
  key = jax.random.fold_in(key, setting.spec.segments + 1)
  short = prepared(params, model, spec, setting.batch, key)
  progress = first_progress(model, setting.batch)
  carried = {name: started[name] for name in progress.state}
  arrived, loss_S, _ = scan.joined(
    params,
    short,
    started,
    progress._replace(state=carried),
    scan.parts(spec, step, key, way=way),
  )
  bound = model.bind({'params': params})

  def seen(progress: Progress) -> jax.Array:
    """The last state behind the norm of its head, but before a coda."""
    last = model.grid.per_segment - 1
    return bound.normed(last, progress.state[RUNNING]).astype(jnp.float32)

  long_BxTxD = jax.lax.stop_gradient(seen(ended))
  square_BxT = ((long_BxTxD - seen(arrived)) ** 2).mean(-1)
  mask_BxT = setting.batch['mask']
  distance = (square_BxT * mask_BxT).sum() / jnp.maximum(mask_BxT.sum(), 1.0)

  shortcut = setting.spec.shortcut
  total = shortcut.shortcut_weight * loss_S.sum()
  total += shortcut.shortcut_match * distance
  return total, {'loss_shortcut': loss_S.sum(), 'shortcut_distance': distance}
