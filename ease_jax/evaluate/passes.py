"""Exit-consistent passes: from a trained model to where tokens stop.

`grid_dump` reads every readout of every token once; under a policy that runs
exited tokens on (`recompute`), any threshold is then a reduction of it. The
other K/V policies change what later tokens see, so they take one masked pass
per threshold (`traces`).
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ease_jax import arrays
from ease_jax.core import signals
from ease_jax.core.grid import reaches
from ease_jax.core.observations import Observation
from ease_jax.core.policies import RECOMPUTE, UNITS, ExitRule
from ease_jax.core.signals import SIGNALS
from ease_jax.model import Body, Params
from ease_jax.model import attention as attention_lib
from ease_jax.model.exits import Exits, before_exits, settled
from ease_jax.model.flash import among
from ease_jax.model.linear_loss import linear_cross_entropy
from ease_jax.model.readout import named, observe_states
from ease_jax.model.sight import Places, places_of, sight_of
from ease_jax.model.walk import (
  RUNNING,
  Call,
  Layer,
  Ran,
  State,
  Travel,
  Tree,
  Walked,
  shown,
  walk,
)

Batch = Mapping[str, np.ndarray]  # tokens, targets, mask: [B, T]
Batches = Callable[[], Iterable[Batch]]


class Masked(NamedTuple):
  """Where each token stopped and what its readout said there."""

  exit_BxT: jax.Array  # readout index, int32
  normed_BxTxD: jax.Array  # the answering readout's normed state
  observation: Observation  # of the answering readout, each [B, T]
  run_LxBxT: jax.Array | None  # who ran each cell; None = all before its exit


def windowed(bound: Body, places: Places) -> Layer:
  """Blocks over whole windows that show the policy's keys and values.

  Args:
    bound: a bound body.
    places: of the tokens.
  """
  rotation = attention_lib.rotation(bound.cfg, places.position_BxT)
  scoring = attention_lib.scoring(bound.cfg)

  def layer(call: Call, h_BxTxD: jax.Array) -> Ran:
    block = bound.block(call.cell, call.run)
    kv = shown(call, block.kv(h_BxTxD, rotation))
    sight = sight_of(bound.cfg, block.window, places, call.seen_BxT)

    def look(query_BxTxHxD: jax.Array) -> jax.Array:
      return among(query_BxTxHxD, kv, sight, scoring)

    return Ran(block.attend(h_BxTxD, rotation, look), kv)

  return layer


@functools.partial(jax.jit, static_argnames=('model', 'rule'))
def masked_pass(
  params: Params,
  batch: Batch,
  threshold_K: jax.Array,
  *,
  model: Body,
  rule: ExitRule,
) -> Masked:
  """Exit-consistent teacher-forced pass: equal to decoding with a cache.

  Tokens that exited are frozen (2207.07061, 1910.10073).

  Args:
    params: the model's parameters.
    batch: tokens, targets and mask, [B, T].
    threshold_K: one per readout; the last is ignored.
    model: a body (static).
    rule: signal, policy and unit of the exits (static).
  """
  model.check(rule)
  bound = model.bind({'params': params})
  token_BxT = jnp.asarray(batch['tokens'])
  target_BxT = jnp.asarray(batch['targets'])
  mask_BxT = jnp.asarray(batch['mask'])
  places = places_of(model.cfg, token_BxT)
  layer = windowed(bound, places)
  travel = Travel(places.position_BxT)
  has_coda = bool(model.grid.coda)

  def read(
    k: int, state: State, exits: Exits | None
  ) -> tuple[Exits | None, None]:
    assert exits is not None
    here = bound.read(k, state[RUNNING])
    if has_coda:
      obs = observe_states(here, exits.previous)
      obs = bound.gated(k, obs, here, rule.signal.name)
      answer: Tree = state
    else:
      before = exits.previous
      obs = bound.observe(k, here, before, target_BxT, rule.signal.name)
      answer = here.normed_BxTxD, obs

    candidates = exits.memory if k else None
    obs = named(obs, here, candidates, bound.head(k), rule.signal)
    memory, score_BxT = rule.signal.step(exits.memory, obs)
    chex.assert_shape(score_BxT, token_BxT.shape)
    score_BxT = per_unit(rule, score_BxT, mask_BxT)
    stops_BxT = reaches(score_BxT, threshold_K[k])
    exits = settled(exits, k, stops_BxT, answer)
    return exits._replace(memory=memory, previous=here), None

  nobody_BxT = jnp.zeros(token_BxT.shape, bool)
  walked = walk(
    bound,
    model.grid.cells,
    bound.start(token_BxT, travel.position_BxT),
    before_exits(
      nobody_BxT, rule.signal.init(token_BxT.shape, model.grid.num_readouts)
    ),
    layer=layer,
    travel=travel,
    read=read,
    policy=rule.policy,
  )
  exits = walked.exits
  assert exits is not None
  if has_coda:
    h_BxTxD = bound.through_coda(exits.answer, layer, travel)
    normed_BxTxD, obs = _after_coda(bound, h_BxTxD, batch)
  else:
    normed_BxTxD, obs = exits.answer
  return Masked(exits.exit_BxT, normed_BxTxD, obs, runs(walked))


def per_unit(
  rule: ExitRule, score_BxT: jax.Array, mask_BxT: jax.Array
) -> jax.Array:
  """Scores as they decide: a whole row's is the lowest of its tokens'."""
  if rule.unit == UNITS[0]:
    return score_BxT
  real_BxT = jnp.where(mask_BxT > 0, score_BxT, jnp.inf)
  lowest_Bx1 = real_BxT.min(1, keepdims=True)
  return jnp.broadcast_to(lowest_Bx1, score_BxT.shape)


def runs(walked: Walked) -> jax.Array | None:
  """Who ran each cell, [L, B, T]; None where no router kept anybody out."""
  if not any(call.cell.router for call in walked.calls):
    return None
  shape = walked.state[RUNNING].shape[:2]
  masks = [
    jnp.ones(shape, bool) if call.goes_BxT is None else call.goes_BxT
    for call in walked.calls
  ]
  return jnp.stack(masks)


def _after_coda(
  bound: Body, h_BxTxD: jax.Array, batch: Batch
) -> tuple[jax.Array, Observation]:
  """Normed states and observations of the readouts that answered."""
  last = bound.grid.num_readouts - 1
  read = bound.read(last, h_BxTxD)
  obs = bound.observe(last, read, None, jnp.asarray(batch['targets']))
  return read.normed_BxTxD, obs


class Dump(NamedTuple):
  """Every readout of every token; R rows of T tokens."""

  nll_KxRxT: np.ndarray
  argmax_KxRxT: np.ndarray
  correct_KxRxT: np.ndarray
  max_prob_KxRxT: np.ndarray
  score_KxRxT: dict[str, np.ndarray]  # by signal
  output_KxRxTxO: dict[str, np.ndarray]  # of gates, by signal
  mask_RxT: np.ndarray
  target_RxT: np.ndarray
  run_LxRxT: np.ndarray | None = None  # who ran each cell; None = everybody
  document_RxT: np.ndarray | None = None  # of each target; None = its row


@functools.partial(jax.jit, static_argnames=('model', 'names'))
def _dump_batch(
  params: Params, batch: Batch, *, model: Body, names: tuple[str, ...]
):
  bound = model.bind({'params': params})
  token_BxT = jnp.asarray(batch['tokens'])
  places = places_of(model.cfg, token_BxT)
  travel = Travel(places.position_BxT)
  layer = bound.windows(places)

  def read(
    k: int, state: State, exits: Exits | None
  ) -> tuple[Exits | None, tuple[jax.Array, jax.Array]]:
    del k
    return exits, (
      state[RUNNING],
      bound.through_coda(state, layer, travel),
    )

  walked = walk(
    bound,
    model.grid.cells,
    bound.start(token_BxT, travel.position_BxT),
    None,
    layer=layer,
    travel=travel,
    read=read,
  )
  observations = []
  previous = None
  listed = [name for name in names if SIGNALS[name].candidates]
  target_BxT = jnp.asarray(batch['targets'])
  for k, (h_BxTxD, answer_BxTxD) in enumerate(walked.reads):
    here = bound.read(k, answer_BxTxD)._replace(h_BxTxD=h_BxTxD)
    obs = bound.observe(k, here, previous, target_BxT, *names)
    for name in listed:
      ids = observations[0].named[name].id if k else None
      obs = named(obs, here, ids, bound.head(k), SIGNALS[name])
    observations.append(obs)
    previous = here

  score = {name: signals.scores(SIGNALS[name], observations) for name in names}
  output = {
    name: jnp.stack([obs.gate[name] for obs in observations])
    for name in observations[0].gate
  }
  nll_KxBxT = jnp.stack([obs.nll for obs in observations])
  argmax_KxBxT = jnp.stack([obs.argmax for obs in observations])
  max_prob_KxBxT = jnp.stack([obs.max_prob for obs in observations])
  correct_KxBxT = argmax_KxBxT == target_BxT[None]
  return (
    nll_KxBxT,
    argmax_KxBxT,
    correct_KxBxT,
    max_prob_KxBxT,
    score,
    output,
    runs(walked),
  )


def grid_dump(
  model: Body, params: Params, batches: Batches, names: Sequence[str]
) -> Dump:
  """Reads all readouts once, with the scores of the named signals."""
  names = tuple(names)
  for name in names:
    model.check(ExitRule(SIGNALS[name], RECOMPUTE))

  dumps = []
  for batch in batches():
    spread = arrays.from_all_rows(batch)
    nll, argmax, correct, max_prob, score, output, run = arrays.get(
      _dump_batch(params, spread, model=model, names=names)
    )
    dumps.append(
      Dump(
        nll,
        argmax,
        correct,
        max_prob,
        score,
        output,
        batch['mask'],
        batch.get('scored', batch['targets']),
        run,
        batch.get('document'),
      )
    )

  return Dump(
    nll_KxRxT=np.concatenate([d.nll_KxRxT for d in dumps], 1),
    argmax_KxRxT=np.concatenate([d.argmax_KxRxT for d in dumps], 1),
    correct_KxRxT=np.concatenate([d.correct_KxRxT for d in dumps], 1),
    max_prob_KxRxT=np.concatenate([d.max_prob_KxRxT for d in dumps], 1),
    score_KxRxT={
      name: np.concatenate([d.score_KxRxT[name] for d in dumps], 1)
      for name in names
    },
    output_KxRxTxO={
      name: np.concatenate([d.output_KxRxTxO[name] for d in dumps], 1)
      for name in dumps[0].output_KxRxTxO
    },
    mask_RxT=np.concatenate([d.mask_RxT for d in dumps]),
    target_RxT=np.concatenate([d.target_RxT for d in dumps]),
    run_LxRxT=joined([d.run_LxRxT for d in dumps], 1),
    document_RxT=joined([d.document_RxT for d in dumps], 0),
  )


def joined(parts: Sequence[np.ndarray | None], axis: int) -> np.ndarray | None:
  """Arrays of several batches along their rows; None where no batch has one."""
  arrays = [part for part in parts if part is not None]
  return np.concatenate(arrays, axis) if arrays else None


def last_nll(model: Body, params: Params, batches: Iterable[Batch]) -> float:
  """Mean loss of the last readout over all unmasked tokens, nats."""
  total = 0.0
  count = 0.0
  for batch in batches:
    spread = arrays.from_all_rows(batch)
    nll_sum, num = _last_nll(params, spread, model=model)
    total += float(nll_sum)
    count += float(num)
  return total / count


@functools.partial(jax.jit, static_argnames=('model',))
def _last_nll(params: Params, batch: Batch, *, model: Body):
  bound = model.bind({'params': params})
  h_BxTxD = bound.states(jnp.asarray(batch['tokens']))[-1]
  normed_BxTxD = bound.normed(model.grid.num_readouts - 1, h_BxTxD)
  target_N = jnp.asarray(batch['targets']).reshape(-1)
  mask_N = jnp.asarray(batch['mask']).reshape(-1)
  total = linear_cross_entropy(
    normed_BxTxD.reshape(mask_N.size, -1),
    bound.unembedding(),
    target_N,
    mask_N,
  )
  return total, mask_N.sum()
