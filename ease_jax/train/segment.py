"""The loss of one segment: readouts, gates and routers."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from ease_jax.core.grid import reaches
from ease_jax.core.objective import LossSpec
from ease_jax.core.observations import EXIT_SCORES
from ease_jax.model import Body, Params
from ease_jax.model import attention as attention_lib
from ease_jax.model.exits import Exits, Tree, before_exits, settled
from ease_jax.model.walk import RUNNING, Layer, Leap, Run, State, Travel, walk
from ease_jax.train import cached, rows
from ease_jax.train.gates import Segment, Told, learn_gates, shares, tell
from ease_jax.train.targets import (
  TARGETS,
  Batch,
  Prepared,
  Tables,
  Target,
  Teacher,
  some_tokens,
)


class Progress(NamedTuple):
  """What one segment of a batch hands to the next."""

  state: State  # the carried streams
  done_BxT: jax.Array  # exited (`exit_threshold`): frozen from here on
  alive_BxT: jax.Array  # not halted: still trained on, float32
  left_BxT: jax.Array  # of the loss, where a gate weighs readouts, float32


class Part(NamedTuple):
  """One segment of an update; S of them are stacked."""

  number: jax.Array  # from 0
  run: Run  # the same, with segments counted that learned nothing
  weight_R: jax.Array  # of each of its readouts
  key: jax.Array  # for dropout, first states, choice of tokens, exploration
  leap: Leap | None = None  # its place on a shortcut

  def travel(self, length: int, key: jax.Array) -> Travel:
    """Where the tokens of its windows stand, and which run it is."""
    position_1xT = attention_lib.positions(length)
    return Travel(position_1xT, key, before=self.run, leap=self.leap)


class SegmentLosses(NamedTuple):
  """Losses of one segment, nats."""

  readout_R: jax.Array  # 0 where a readout is not supervised
  gates: dict[str, jax.Array]  # of each signal that learns from segments
  routers: jax.Array | None  # None where they learn nothing
  told: Told | None = None  # to gates that learn from the whole grid


class Setting(NamedTuple):
  """What is the same for all segments of a batch."""

  model: Body
  spec: LossSpec
  batch: Batch
  target: Target
  prepared: Prepared  # of it; None with one segment, which prepares its own
  start_key: jax.Array  # of the streams before the first segment


def prepared(
  params: Params,
  model: Body,
  spec: LossSpec,
  batch: Batch,
  key: jax.Array,
  teacher: Teacher | None = None,
) -> Setting:
  """The setting of a batch; its target is made without a gradient.

  Args:
    params: the model's parameters.
    model: a body.
    spec: the loss.
    batch: tokens, targets and mask, each [B, T].
    key: of the update.
    teacher: of the target, where it has one beside the model.
  """
  target = TARGETS[spec.teaching.target](spec, teacher)
  start_key = jax.random.fold_in(key, spec.segments)
  setting = Setting(model, spec, batch, target, None, start_key)
  if spec.segments == 1:
    return setting

  params = jax.lax.stop_gradient(params)
  bound = model.bind({'params': params})
  answer = functools.partial(Teacher(model, params).answer, batch['tokens'])
  ready = jax.lax.stop_gradient(target.prepare(bound, batch, answer))
  return setting._replace(prepared=ready)


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
  length = batch['tokens'].shape[1]
  deterministic = model.cfg.dropout == 0
  travel = Travel(attention_lib.positions(length))

  state = bound.start(
    batch['tokens'], travel.position_BxT, carry_key, deterministic
  )
  layer = bound.windows(length, deterministic)
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
  length = batch['tokens'].shape[1]
  travel = part.travel(length, route_key)
  layer = bound.windows(length, model.cfg.dropout == 0)

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
  loss_R = _readout_losses(
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

  total = part.weight_R @ loss_R + (0.0 if routers is None else routers)
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


def _readout_losses(
  bound: Body,
  setting: Setting,
  state_R: tuple[State, ...],
  part: Part,
  counted_R: Sequence[jax.Array],
  key: jax.Array,
  layer: Layer,
  travel: Travel,
) -> jax.Array:
  """Mean loss at each readout of a segment over unmasked tokens, [R] nats.

  Tokens count as much as `counted_R` says. Readouts of weight 0 cost nothing:
  they are not in the program, or skipped when it runs if a schedule turned
  them off.
  """
  spec = setting.spec
  batch = setting.batch
  last = len(state_R) - 1
  loss_R = []

  @functools.cache  # one draw of the coda's dropout for each readout
  def normed(r: int) -> jax.Array:
    return bound.normed(r, bound.through_coda(state_R[r], layer, travel))

  ready = setting.prepared
  if spec.segments == 1:
    ready = setting.target.prepare(bound, batch, lambda: normed(last))
    ready = jax.lax.stop_gradient(ready)

  for r in range(len(state_R)):
    weight_S = [row[r] for row in spec.weight_SxR]
    if not any(weight_S):
      loss_R.append(jnp.float32(0))
      continue

    tokens = (normed(r), ready, batch['mask'], counted_R[r])
    tokens = jax.tree.map(_flat, tokens)
    if r < last and spec.token_fraction < 1:
      key, use_key = jax.random.split(key)
      tokens = some_tokens(use_key, spec.token_fraction, tokens)

    # Which of several segments this is, is known when the program runs.
    is_last: bool | jax.Array = r == last
    if is_last and spec.segments > 1:
      is_last = part.number == spec.segments - 1

    tables = Tables(bound.unembedding(r), bound.unembedding())
    run = functools.partial(_readout_loss, setting.target, is_last, tables)
    # No schedule turns the last one off.
    if all(weight_S) and (is_last is True or spec.schedule == 'constant'):
      loss_R.append(run(*tokens))
    else:
      on = part.weight_R[r] > 0
      loss_R.append(jax.lax.cond(on, run, _nothing, *tokens))

  return jnp.stack(loss_R)


def _flat(x_BxTx: jax.Array) -> jax.Array:
  return x_BxTx.reshape(-1, *x_BxTx.shape[2:])


def _nothing(*tokens: Tree) -> jax.Array:
  del tokens
  return jnp.float32(0)


@jax.named_scope('loss')
def _readout_loss(
  target: Target,
  is_last: bool | jax.Array,
  tables: Tables,
  normed_NxD: jax.Array,
  prepared_N: Prepared,
  mask_N: jax.Array,
  counted_N: jax.Array,
) -> jax.Array:
  weight_N = mask_N * counted_N / jnp.maximum(mask_N.sum(), 1.0)
  loss = target.loss(normed_NxD, tables, prepared_N, weight_N, is_last)
  chex.assert_shape(loss, ())
  return loss
