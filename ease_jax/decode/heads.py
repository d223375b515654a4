"""Heads that are evaluated only where somebody asks for them."""

from typing import Any

import jax
import jax.numpy as jnp

from ease_jax.core import costs, grid, signals
from ease_jax.model import halting, readout
from ease_jax.model.exits import ExitSpec


class Asking:
  """A head of `exits.walk` that answers with logits [B, T, V].

  A readout that may not answer ("never"), or that no live token reaches, costs
  nothing. `spec` None means exits compiled out: only the last one answers.
  Lives while a program is traced.
  """

  def __init__(self, bound: Any, spec: ExitSpec | None, threshold_K: jax.Array):
    self.bound, self.spec = bound, spec or ExitSpec()
    self.exits_off = spec is None
    self.threshold_K = threshold_K
    self.last = len(bound.cfg.cells) - 1
    self.heads_run = jnp.int32(0)  # counted, not inferred
    self.logits: Any = None  # of the readout before
    self.asked_K = asked(threshold_K, self.spec)

  def init(self, shape: tuple[int, ...]) -> Any:
    """The signal's memory."""
    return signals.SIGNALS[self.spec.signal].init(shape)

  def __call__(self, k, state, previous, memory, done_BxT):
    if k == self.last:
      logits = self._logits(~done_BxT.all(), state)
      return memory, jnp.ones_like(done_BxT), logits
    if self.exits_off:
      shape = *done_BxT.shape, len(self.bound.unembedding())
      return memory, jnp.zeros_like(done_BxT), jnp.zeros(shape)
    signal = signals.SIGNALS[self.spec.signal]
    if self.spec.signal in costs.HEADLESS_SIGNALS:
      obs = self._states_only(state, previous, done_BxT.shape)
      memory, score_BxT = signal.step(memory, obs)
      stops_BxT = grid.exits(score_BxT, self.threshold_K[k])
      logits = self._logits((stops_BxT & ~done_BxT).any(), state)
      return memory, stops_BxT, logits
    wanted = self.asked_K[k] & ~done_BxT.all()
    before = self.logits if self.spec.signal == 'kl' else None
    self.logits = self._logits(wanted, state)

    def score():
      flat = self.logits.reshape(-1, self.logits.shape[-1])
      obs = readout.statistics(
        flat,
        jnp.zeros(len(flat), jnp.int32),
        None if before is None else before.reshape(flat.shape),
      )
      obs = jax.tree.map(lambda x: x.reshape(done_BxT.shape), obs)
      return signal.step(memory, obs)

    never = jnp.full(done_BxT.shape, -jnp.inf)
    memory, score_BxT = jax.lax.cond(wanted, score, lambda: (memory, never))
    stops_BxT = wanted & grid.exits(score_BxT, self.threshold_K[k])
    return memory, stops_BxT, self.logits

  def _logits(self, wanted: jax.Array, state: Any) -> jax.Array:
    n_BxTxD, w_VxD = state[1], self.bound.unembedding()
    shape = *n_BxTxD.shape[:-1], len(w_VxD)

    def head():
      flat = readout.logits(n_BxTxD.reshape(-1, n_BxTxD.shape[-1]), w_VxD)
      return flat.reshape(shape), jnp.int32(1)

    logits, ran = jax.lax.cond(
      wanted, head, lambda: (jnp.zeros(shape), jnp.int32(0))
    )
    self.heads_run += ran
    return logits

  def _states_only(self, state, previous, shape) -> signals.Observation:
    obs = signals.blank(shape)
    if self.spec.signal == 'q_halt':
      return obs._replace(halt=halting.score(self.bound.halt_logits(state[0])))
    if previous is None:
      return obs
    flat = lambda x: x.reshape(-1, x.shape[-1])
    cosine_N = readout.cosine(flat(state[0]), flat(previous[0]))
    return obs._replace(state_cosine=cosine_N.reshape(shape))


def asked(threshold_K: jax.Array, spec: ExitSpec) -> jax.Array:
  """Readouts whose head a token needs that goes past them, [K] bool."""
  active_K = (threshold_K < jnp.inf).reshape(len(threshold_K), -1).any(1)
  if spec.signal in costs.MEMORY_SIGNALS:
    # All before the last one that may answer.
    later_K = active_K.at[-1].set(False)[::-1]
    active_K = jax.lax.cummax(later_K.astype(jnp.int32))[::-1] > 0
  return active_K
