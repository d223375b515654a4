"""Readers that evaluate heads only where somebody asks for them."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.checks import need
from ease_jax.core.grid import Grid, reaches
from ease_jax.core.observations import Named, Observation
from ease_jax.core.policies import UNITS, ExitRule
from ease_jax.core.signals import Memory, Signal
from ease_jax.model import Body, readout
from ease_jax.model.exits import Counts, Exits, before_exits, settled
from ease_jax.model.readout import Read
from ease_jax.model.walk import RUNNING, Reader, State, Tree, Walked


def check(model: Body, rule: ExitRule | None) -> None:
  """Raises ConfigError if a model cannot be decoded with such exits."""
  need(
    model.cfg.attention == 'causal',
    f'a model with {model.cfg.attention} attention sees later tokens, so it '
    'cannot be decoded; evaluate it',
  )
  if rule is None:
    return
  need(
    rule.policy.decodes,
    f'K/V policy {rule.policy.name!r} is a control of the evaluation; decode '
    'with another one',
  )
  need(
    rule.unit == UNITS[0],
    f'exits of a whole {rule.unit} wait for its last token, so they cannot '
    "be decoded; use unit='token'",
  )
  need(
    not (model.grid.has_asides and rule.policy.runs_on),
    f'K/V policy {rule.policy.name!r} makes up cells later, which is not known '
    'of readouts with blocks of their own; use copy_state or drop',
  )
  model.check(rule)


class Asked(NamedTuple):
  """Memory of a reader between readouts."""

  signal: Memory
  logits: jax.Array | None  # of the readout before


def before(bound: Body, rule: ExitRule | None, done_BxT: jax.Array) -> Exits:
  """The exits before the first cell, for a reader of this file.

  Args:
    bound: a bound body.
    rule: how tokens exit; None = they do not.
    done_BxT: tokens that want nothing.
  """
  readouts = bound.grid.num_readouts
  memory = () if rule is None else rule.signal.init(done_BxT.shape, readouts)
  return before_exits(done_BxT, Asked(memory, None))


def asked(grid: Grid, threshold_K: jax.Array, rule: ExitRule) -> jax.Array:
  """Readouts that ask a token which goes past them, [K] bool.

  Args:
    grid: of the model.
    threshold_K: one per readout, or one for each token as well, [K, B, 1].
    rule: how tokens exit.
  """
  active_K = (threshold_K < jnp.inf).reshape(len(threshold_K), -1).any(1)
  if not rule.signal.needs_earlier(grid.has_asides):
    return active_K

  # All before the last one that may answer.
  later_K = active_K.at[-1].set(False)[::-1].astype(jnp.int32)
  return jax.lax.cummax(later_K)[::-1] > 0


def speaking(
  bound: Body, rule: ExitRule | None, threshold_K: jax.Array
) -> Reader:
  """A reader that answers with logits [B, T, V].

  A readout that may not answer ("never"), or that no live token reaches, costs
  nothing. Where a coda stands before the head, it answers with the state
  instead, and `answer_of` makes logits of it.

  Args:
    bound: a bound body.
    rule: how tokens exit; None compiles the exits out: only the last readout
      answers.
    threshold_K: one per readout, or [K, B, 1].
  """
  last = bound.grid.num_readouts - 1
  has_coda = bool(bound.grid.coda)
  asked_K = None if rule is None else asked(bound.grid, threshold_K, rule)

  def answered(
    exits: Exits, k: int, state: State, stops_BxT: jax.Array, logits: Tree
  ) -> Exits:
    return settled(exits, k, stops_BxT, state if has_coda else logits)

  def read(
    k: int, state: State, exits: Exits | None
  ) -> tuple[Exits | None, None]:
    assert exits is not None
    here = bound.read(k, state[RUNNING])

    if k == last:
      everybody = jnp.ones_like(exits.done_BxT)
      logits = None
      if not has_coda:
        wanted = ~exits.done_BxT.all()
        exits, logits = evaluated(bound, exits, wanted, k, here)
      return answered(exits, k, state, everybody, logits), None

    if rule is None or asked_K is None:
      return exits, None

    signal = rule.signal
    wanted = asked_K[k] & ~exits.done_BxT.all()
    logits = None
    if signal.needs_head(k):
      exits, logits = evaluated(bound, exits, wanted, k, here)
      see = functools.partial(_of_logits, logits, exits.memory.logits, signal)
    else:
      see = functools.partial(_of_states, bound, exits, signal, k, here)

    exits, score_BxT = _scored(exits, wanted, signal, see, logits)
    stops_BxT = wanted & reaches(score_BxT, threshold_K[k])
    if logits is None and not has_coda:
      answers = (stops_BxT & ~exits.done_BxT).any()
      exits, logits = evaluated(bound, exits, answers, k, here)

    exits = answered(exits, k, state, stops_BxT, logits)
    return exits._replace(previous=here), None

  return read


def silent(
  bound: Body,
  rule: ExitRule | None,
  threshold_K: jax.Array,
  token_BxT: jax.Array,
) -> Reader:
  """A reader that only decides who stops, many tokens at a time.

  It never holds more than a chunk of logits.

  Args:
    bound: a bound body.
    rule: how tokens exit; None = they do not.
    threshold_K: one per readout.
    token_BxT: any tokens of that shape.
  """
  last = bound.grid.num_readouts - 1
  has_coda = bool(bound.grid.coda)

  def read(
    k: int, state: State, exits: Exits | None
  ) -> tuple[Exits | None, None]:
    assert exits is not None
    answer = state if has_coda else None
    nobody = jnp.zeros_like(exits.done_BxT)
    if rule is None or k == last:
      return settled(exits, k, nobody, answer), None

    here = bound.read(k, state[RUNNING])
    signal = rule.signal
    memory = exits.memory.signal
    previous = exits.previous

    def score() -> tuple[Memory, jax.Array]:
      if signal.needs_head(k):
        obs = bound.observe(k, here, previous, token_BxT, signal.name)
      else:
        obs = readout.observe_states(here, previous)
        obs = bound.gated(k, obs, here, signal.name)
      candidates = memory if k else None
      obs = readout.named(obs, here, candidates, bound.head(k), signal)
      return signal.step(memory, obs)

    def never() -> tuple[Memory, jax.Array]:
      return memory, jnp.full(nobody.shape, -jnp.inf)

    asks = asked(bound.grid, threshold_K, rule)[k]
    memory, score_BxT = jax.lax.cond(asks, score, never)
    stops_BxT = asks & reaches(score_BxT, threshold_K[k])
    exits = settled(exits, k, stops_BxT, answer)
    memory = exits.memory._replace(signal=memory)
    return exits._replace(memory=memory, previous=here), None

  return read


def evaluated(
  bound: Body, exits: Exits, wanted: jax.Array, k: int, read: Read
) -> tuple[Exits, jax.Array]:
  """Logits [B, T, V] of readout `k` where they are wanted, else zeros."""
  w_VxD = bound.head(k)
  shape = *read.normed_BxTxD.shape[:-1], w_VxD.shape[0]

  def head() -> tuple[jax.Array, jax.Array]:
    normed_NxD = read.normed_BxTxD.reshape(-1, w_VxD.shape[1])
    return readout.logits(normed_NxD, w_VxD).reshape(shape), jnp.int32(1)

  def nothing() -> tuple[jax.Array, jax.Array]:
    return jnp.zeros(shape), jnp.int32(0)

  logits, ran = jax.lax.cond(wanted, head, nothing)
  counts = exits.counts._replace(heads=exits.counts.heads + ran)
  return exits._replace(counts=counts), logits


def _scored(
  exits: Exits,
  wanted: jax.Array,
  signal: Signal,
  see: Callable[[], Observation],
  logits: jax.Array | None,
) -> tuple[Exits, jax.Array]:
  """Scores [B, T] where they are wanted, else -inf at no cost.

  Args:
    exits: before the readout.
    wanted: whether anybody asks.
    signal: what is asked.
    see: makes what it looks at.
    logits: of the readout, for a later one to compare; None = not made yet.
  """
  memory: Asked = exits.memory

  def score() -> tuple[Memory, jax.Array]:
    return signal.step(memory.signal, see())

  def never() -> tuple[Memory, jax.Array]:
    return memory.signal, jnp.full(exits.done_BxT.shape, -jnp.inf)

  kept, score_BxT = jax.lax.cond(wanted, score, never)
  return exits._replace(memory=Asked(kept, logits)), score_BxT


def _of_logits(
  logits_BxTxV: jax.Array, before_BxTxV: jax.Array | None, signal: Signal
) -> Observation:
  """What logits say, beside those of the readout before."""
  num = logits_BxTxV.shape[-1]
  logits_NxV = logits_BxTxV.reshape(-1, num)
  before_NxV = None
  if signal.compares_logits and before_BxTxV is not None:
    before_NxV = before_BxTxV.reshape(-1, num)
  no_target_N = jnp.zeros(len(logits_NxV), jnp.int32)
  obs = readout.statistics(logits_NxV, no_target_N, before_NxV)

  def whole(x_N: jax.Array) -> jax.Array:
    return x_N.reshape(logits_BxTxV.shape[:-1])

  return _naming(jax.tree.map(whole, obs), logits_BxTxV, signal)


def _naming(
  obs: Observation, logits_BxTxV: jax.Array, signal: Signal
) -> Observation:
  """An observation of the first readout with the candidates of a signal."""
  if not signal.candidates:
    return obs
  logit_BxTxC, id_BxTxC = jax.lax.top_k(logits_BxTxV, signal.candidates)
  return obs._replace(named={signal.name: Named(id_BxTxC, logit_BxTxC)})


def _of_states(
  bound: Body, exits: Exits, signal: Signal, k: int, here: Read
) -> Observation:
  """What a state says, beside that of the readout before."""
  obs = readout.observe_states(here, exits.previous)
  obs = bound.gated(k, obs, here, signal.name)
  candidates = exits.memory.signal
  return readout.named(obs, here, candidates, bound.head(k), signal)


def answer_of(
  bound: Body, walked: Walked, tail: Walked, done_BxT: jax.Array
) -> tuple[jax.Array, Counts]:
  """Logits that answer, [B, T, V], and all that was done for them.

  Args:
    bound: a bound body.
    walked: the walk through prelude and segments.
    tail: the walk through the coda.
    done_BxT: tokens that wanted nothing.
  """
  exits = walked.exits
  assert exits is not None and tail.exits is not None
  if not bound.grid.coda:
    return exits.answer, exits.counts

  last = bound.grid.num_readouts - 1
  read = bound.read(last, tail.state[RUNNING])
  counts = jax.tree.map(jnp.add, exits.counts, tail.exits.counts)
  exits = exits._replace(counts=counts)
  exits, logits_BxTxV = evaluated(bound, exits, ~done_BxT.all(), last, read)
  return logits_BxTxV, exits.counts
