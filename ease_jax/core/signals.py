"""Exit signals: one confidence per readout and token, higher means exit.

A signal carries all facts about itself: what it looks at, the range of its
scores, the thresholds worth sweeping, what asking it costs and, where it is
learned, its gate. `step(memory, observation) -> (memory, score)` sees the
readouts one after another, in float32 and per token, so no row and no position
can influence another one's score.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.checks import need
from ease_jax.core.gates import Gate, GateShape
from ease_jax.core.observations import Observation

Memory = Any  # tree of [B, T, ...] arrays that a signal keeps between readouts

LOGITS = 'logits'
PREVIOUS_LOGITS = 'previous_logits'
STATE = 'state'
PREVIOUS_STATE = 'previous_state'
GATE = 'gate'


def _no_memory(shape: tuple[int, ...], readouts: int) -> Memory:
  del shape, readouts
  return ()


@dataclasses.dataclass(frozen=True)
class Signal:
  """A confidence and all that others need to know of it.

  Attributes:
    name: as configs and results call it.
    step: (memory, observation) -> (memory, score).
    looks_at: of LOGITS, PREVIOUS_LOGITS, STATE, PREVIOUS_STATE, GATE.
    low: lowest score.
    high: highest score.
    sweep: thresholds that are tried unless a config says otherwise.
    init: (shape, K) -> memory before the first of K readouts.
    remembers: whether `step` needs to have seen all earlier readouts.
    gate: the learned part, or None.
    candidates: how many tokens the first readout names, of whose logits alone
      the later ones are asked; their ids are the signal's memory.
    listed: whether it looks at logits of the model's most frequent tokens.
  """

  name: str
  step: Callable[[Memory, Observation], tuple[Memory, jax.Array]]
  looks_at: frozenset[str]
  low: float
  high: float
  sweep: tuple[float, ...]
  init: Callable[[tuple[int, ...], int], Memory] = _no_memory
  remembers: bool = False
  gate: Gate | None = None
  candidates: int = 0
  listed: bool = False

  def needs_head(self, k: int) -> bool:
    """Whether readout k needs all logits before anybody knows who stops."""
    names = self.candidates > 0 and k == 0
    return names or bool(self.looks_at & {LOGITS, PREVIOUS_LOGITS})

  def sees_adapted(self, k: int) -> bool:
    """Whether readout k's state is made for a head before it is asked."""
    return self.needs_head(k) or self.candidates > 0 or self.listed

  @property
  def compares_logits(self) -> bool:
    """Whether it looks at the logits of the readout before."""
    return PREVIOUS_LOGITS in self.looks_at

  def needs_earlier(self, asides: bool) -> bool:
    """Whether a readout can be asked only if all before it were.

    Args:
      asides: whether states come of cells that run only where they are asked.
    """
    compares_states = asides and PREVIOUS_STATE in self.looks_at
    return self.remembers or self.compares_logits or compares_states

  @property
  def can_draft(self) -> bool:
    """Whether one readout's logits are enough for a score."""
    return self.looks_at == {LOGITS} and not self.remembers

  def flops(self, shape: GateShape, k: int) -> float:
    """FLOPs of asking it at readout k, a head not included."""
    if self.gate is not None:
      return self.gate.flops(shape, k)
    if self.needs_head(k):
      return 0.0
    if self.candidates:
      return 2.0 * shape.dim * self.candidates
    if self.listed:
      return 2.0 * shape.dim * shape.frequent
    # A product of two states and their two norms.
    return 6.0 * shape.dim

  def check_threshold(self, threshold: float) -> None:
    """Raises ConfigError unless it can be a score, +inf or -inf."""
    need(
      math.isinf(threshold) or self.low <= threshold <= self.high,
      f'exit.thresholds.{self.name} contains {threshold}, outside the range '
      f'[{self.low}, {self.high}] of signal {self.name}',
    )


class _Agreement(NamedTuple):
  argmax: jax.Array
  count: jax.Array


def _no_agreement(shape: tuple[int, ...], readouts: int) -> _Agreement:
  del readouts
  return _Agreement(jnp.full(shape, -1, jnp.int32), jnp.zeros(shape))


def _max_prob(memory: Memory, obs: Observation) -> tuple[Memory, jax.Array]:
  return memory, obs.max_prob


def _margin(memory: Memory, obs: Observation) -> tuple[Memory, jax.Array]:
  return memory, obs.margin


def _certainty(memory: Memory, obs: Observation) -> tuple[Memory, jax.Array]:
  return memory, 1 - obs.entropy


def _state_cosine(memory: Memory, obs: Observation) -> tuple[Memory, jax.Array]:
  return memory, obs.state_cosine


def _stillness(memory: Memory, obs: Observation) -> tuple[Memory, jax.Array]:
  return memory, -obs.state_change


def _before_all(shape: tuple[int, ...], readouts: int) -> jax.Array:
  del readouts
  return jnp.full(shape, jnp.inf)


def _steadiness(
  change: jax.Array, obs: Observation
) -> tuple[jax.Array, jax.Array]:
  """How little the state's change differs from the one before it."""
  has_both = jnp.isfinite(change) & jnp.isfinite(obs.state_change)
  difference = jnp.abs(obs.state_change - change)
  return obs.state_change, jnp.where(has_both, -difference, -jnp.inf)


def _similarity(memory: Memory, obs: Observation) -> tuple[Memory, jax.Array]:
  return memory, -obs.kl


def _patience(
  memory: _Agreement, obs: Observation
) -> tuple[_Agreement, jax.Array]:
  """Consecutive readouts that agree with the one before (2006.04152)."""
  count = jnp.where(obs.argmax == memory.argmax, memory.count + 1, 0.0)
  return _Agreement(obs.argmax, count), count


SIGNALS: dict[str, Signal] = {}


def register(signal: Signal) -> Signal:
  """Makes a signal known by its name to configs and results."""
  SIGNALS[signal.name] = signal
  return signal


MAX_PROB = register(
  Signal(
    'max_prob',
    _max_prob,
    frozenset({LOGITS}),
    low=0.0,
    high=1.0,
    sweep=(0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98),
  )
)
register(
  Signal(
    'margin',
    _margin,
    frozenset({LOGITS}),
    low=0.0,
    high=1.0,
    sweep=(0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98),
  )
)
register(
  Signal(
    'entropy',
    _certainty,
    frozenset({LOGITS}),
    low=0.0,
    high=1.0,
    sweep=(0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98),
  )
)
register(
  Signal(
    'state_cosine',
    _state_cosine,
    frozenset({STATE, PREVIOUS_STATE}),
    low=-1.0,
    high=1.0,
    sweep=(0.5, 0.7, 0.8, 0.9, 0.95, 0.98),
  )
)
register(
  Signal(
    'state_change',
    _stillness,
    frozenset({STATE, PREVIOUS_STATE}),
    low=-math.inf,
    high=0.0,
    sweep=(-1.0, -0.7, -0.5, -0.3, -0.2, -0.1),
  )
)
register(
  Signal(
    'state_steadiness',
    _steadiness,
    frozenset({STATE, PREVIOUS_STATE}),
    low=-math.inf,
    high=0.0,
    sweep=(-0.5, -0.3, -0.2, -0.1, -0.05, -0.02),
    init=_before_all,
    remembers=True,
  )
)
register(
  Signal(
    'kl',
    _similarity,
    frozenset({LOGITS, PREVIOUS_LOGITS}),
    low=-math.inf,
    high=0.0,
    sweep=(-1.0, -0.3, -0.1, -0.03, -0.01, -0.003),
  )
)
register(
  Signal(
    'patience',
    _patience,
    frozenset({LOGITS}),
    low=0.0,
    high=math.inf,
    sweep=(1.0, 2.0, 3.0),
    init=_no_agreement,
    remembers=True,
  )
)


def gate_of(name: str) -> Gate:
  """What a learned signal learns."""
  gate = SIGNALS[name].gate
  assert gate is not None
  return gate


def scores(signal: Signal, observations: Sequence[Observation]) -> jax.Array:
  """Score of every readout from their observations, [K, ...] float32."""
  memory = signal.init(observations[0].nll.shape, len(observations))
  score_K = []

  for obs in observations:
    memory, score = signal.step(memory, obs)
    score_K.append(score)

  return jnp.stack(score_K)
