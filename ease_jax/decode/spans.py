"""Some of the layers: from one readout to another, on a few tokens.

What a token wants is not always the whole walk: a token that stopped early may
be taken further later, and drafts are checked from where they were made.
"""

from collections.abc import Callable
from typing import Any

import jax

from ease_jax.config import ConfigError
from ease_jax.model import layers
from ease_jax.model.body import evaluation_key

# look(layer) -> what the tokens may see of each other and of a cache.
Look = Callable[[int], tuple[jax.Array, tuple[layers.Past, ...]]]


def check(cfg: Any, purpose: str) -> None:
  """Raises ConfigError if a body cannot go on from a readout's state."""
  if cfg.body == 'hrm':
    raise ConfigError(
      f'{purpose} goes on from the state of a readout; model.body=hrm has a '
      'second one; use another policy or body'
    )


def span(
  bound: Any,
  token_BxT: jax.Array,
  position_BxT: jax.Array,
  look: Look,
  *,
  start: int | None,
  stop: int,
  state_BxTxD: jax.Array | None,
) -> tuple[jax.Array, dict[int, layers.KV]]:
  """Runs the layers after readout `start` up to readout `stop`.

  Args:
    bound: a bound body.
    token_BxT: input tokens.
    position_BxT: their positions.
    look: see above.
    start: the readout where `state_BxTxD` stood; None = the input.
    stop: a later readout.
    state_BxTxD: see `start`.

  Returns:
    The states at `stop`, and keys and values of the layers that were run.
  """
  cfg, at, out, kv = bound.cfg, iter(range(len(bound.cfg.cells))), {}, {}
  first = 0 if start is None else cfg.depth_K[start]
  layer_in_turn = iter(range(cfg.depth))

  def through(i, block, h_BxTxD):
    del i
    layer = next(layer_in_turn)
    if not first <= layer < cfg.depth_K[stop]:
      return h_BxTxD
    kv[layer] = block.kv(h_BxTxD, rotation)
    mask, past = look(layer)
    return block.attend(h_BxTxD, kv[layer], mask, rotation, past=past)

  def read(r, h_BxTxD):
    del r
    k = next(at)
    out[k] = h_BxTxD
    return state_BxTxD if k == start else h_BxTxD

  x_BxTxD = bound.embed_tokens(token_BxT)
  rotation = layers.rotation(cfg, position_BxT)
  carry = bound.init_carry(x_BxTxD, position_BxT, evaluation_key())
  for _ in range(cfg.segments):
    carry = bound.segment(x_BxTxD, carry, through, read)
  return out[stop], kv
