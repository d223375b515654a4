"""The loss of one segment: readouts, gates and routers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.core.grid import reaches
from ease_jax.core.objective import LossSpec
from ease_jax.core.observations import EXIT_SCORES
from ease_jax.model import Body, Params
from ease_jax.model.exits import Exits, before_exits, settled
from ease_jax.model.sight import places_of
from ease_jax.model.walk import RUNNING, State, Travel, walk
from ease_jax.train import cached, rows
from ease_jax.train.gates import Segment, Told, learn_gates, shares, tell
from ease_jax.train.setting import Part, Setting
from ease_jax.train.supervised import supervised
from ease_jax.train.targets import (
  Batch,
)


class Progress(NamedTuple):
  """What one segment of a batch hands to the next."""

  state: State  # the carried streams
  done_BxT: jax.Array  # exited (`exit_threshold`): frozen from here on
  alive_BxT: jax.Array  # not halted: still trained on, float32
  left_BxT: jax.Array  # of the loss, where a gate weighs readouts, float32


class SegmentLosses(NamedTuple):
  """Losses of one segment, nats."""

  readout_R: jax.Array  # 0 where a readout is not supervised
  gates: dict[str, jax.Array]  # of each signal that learns from segments
  routers: jax.Array | None  # None where they learn nothing
  told: Told | None = None  # to gates that learn from the whole grid


def first_progress(model: Body, batch: Batch) -> Progress:
  """Before the first segment, which makes its own first state."""
  shape = batch['tokens'].shape
  names = RUNNING, *model.grid.carried
  dtype = jnp.dtype(model.cfg.dtype)
  empty = {name: jnp.zeros((*shape, model.cfg.dim), dtype) for name in names}
  ones = jnp.ones(shape)
  return Progress(empty, jnp.zeros(shape, bool), ones, ones)


def begin(params: Params, setting: Setting) -> State:
  """All streams before the first segment, the prelude included.

  They are the same whichever segment asks for them.
  """
  model = setting.model
  batch = setting.batch
  # Every segment may ask for them, so the key is used again on purpose.
  start_key = jax.random.clone(setting.start_key)
  carry_key, drop_key = jax.random.split(start_key)
  bound = model.bind({'params': params}, rngs={'dropout': drop_key})
  places = places_of(model.cfg, batch['tokens'])
  deterministic = model.cfg.dropout == 0
  travel = Travel(places.position_BxT)

  state = bound.start(
    batch['tokens'], travel.position_BxT, carry_key, deterministic
  )
  layer = bound.windows(places, deterministic)
  walked = walk(
    bound, model.grid.prelude, state, None, layer=layer, travel=travel
  )
  return walked.state


def segment_loss(
  params: Params,
  progress: Progress,
  part: Part,
  setting: Setting,
  started: State | None = None,
) -> tuple[jax.Array, tuple[Progress, SegmentLosses]]:
  """Loss of one segment, nats; `grid_loss` is the sum over all segments.

  Args:
    params: the model's parameters.
    progress: what the segment before left behind.
    part: the segment.
    setting: what all segments share.
    started: the streams before the first segment where a gradient may reach
      them from here; None = make them anew, so that each segment has a
      gradient of its own.
  """
  model = setting.model
  spec = setting.spec
  batch = setting.batch
  drop_key, choice_key, gate_key, route_key = jax.random.split(part.key, 4)
  bound = model.bind({'params': params}, rngs={'dropout': drop_key})
  places = places_of(model.cfg, batch['tokens'])
  travel = part.travel(places, route_key)
  layer = bound.windows(places, model.cfg.dropout == 0)

  if started is None:
    started = begin(params, setting)
    carried = {
      name: jnp.where(part.number == 0, started[name], stream)
      for name, stream in progress.state.items()
    }
  else:
    carried = progress.state

  walked = cached.walked(batch) or walk(
    bound,
    model.grid.first,
    started | carried,
    before_exits(progress.done_BxT)
    if spec.exit_threshold
    else rows.waiting(batch, spec.segments - part.number),
    layer=layer,
    travel=travel,
    read=_reader(bound, spec, batch),
  )
  segment = Segment(walked.state, walked.reads, part.number)
  share_R, left_BxT = shares(bound, spec, segment, progress.left_BxT)
  loss_R, owed = supervised(
    bound,
    setting,
    walked.reads,
    part,
    [progress.alive_BxT * share_BxT for share_BxT in share_R],
    choice_key,
    layer,
    travel,
  )

  def answers(state: State) -> jax.Array:
    return bound.through_coda(state, layer, travel)

  learned, alive_BxT = learn_gates(
    bound, spec, batch, progress.alive_BxT, segment, gate_key, answers
  )
  told = tell(bound, spec, segment, answers)
  routers = _router_loss(walked.router_losses, batch)

  total = part.weight_R @ loss_R + owed
  total += 0.0 if routers is None else routers
  total += spec.gate_scale * sum(learned.values(), jnp.float32(0))
  progress = Progress(
    {name: walked.state[name] for name in carried},
    progress.done_BxT if walked.exits is None else walked.exits.done_BxT,
    alive_BxT,
    left_BxT,
  )
  losses = SegmentLosses(loss_R, learned, routers, told)
  return total, (progress, losses)


def _router_loss(
  losses: tuple[jax.Array, ...], batch: Batch
) -> jax.Array | None:
  """Of all routers together, mean over unmasked tokens, nats."""
  if not losses:
    return None
  total_BxT = jnp.stack(losses).sum(0) * batch['mask']
  return total_BxT.sum() / jnp.maximum(batch['mask'].sum(), 1.0)


def _reader(bound: Body, spec: LossSpec, batch: Batch):
  """Keeps the state of every readout; tokens may stop there while training.

  Training on the exits that inference will take (Elbayad et al. 1910.10073,
  eq. 5, with confident tokens in place of sampled ones) teaches deeper layers
  to read frozen states; the other rows keep full depth as good as it was.
  """
  exits_Bx1 = spec.exits(len(batch['tokens']))

  def read(
    r: int, state: State, exits: Exits | None
  ) -> tuple[Exits | None, State]:
    if exits is None or not spec.exit_threshold:
      return exits, state

    h_BxTxD = jax.lax.stop_gradient(state[RUNNING])
    obs = bound.observe(r, bound.read(r, h_BxTxD), None, batch['targets'])
    score_BxT = EXIT_SCORES[spec.exit_score](obs, batch['targets'])
    stops_BxT = reaches(score_BxT, jnp.float32(spec.exit_threshold))
    exits = settled(exits, r, stops_BxT & exits_Bx1, None)
    return exits, state

  return read
