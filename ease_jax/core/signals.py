"""Exit signals: one confidence per readout and token, higher means exit.

A signal carries all facts about itself: what it looks at, the range of its
scores, the thresholds worth sweeping, what asking it costs and, where it is
learned, its gate. `step(memory, observation) -> (memory, score)` sees the
readouts one after another, in float32 and per token, so no row and no position
can influence another one's score.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ease_jax.checks import need

Memory = Any  # tree of [B, T] arrays that a signal keeps between readouts

LOGITS = 'logits'
PREVIOUS_LOGITS = 'previous_logits'
STATE = 'state'
PREVIOUS_STATE = 'previous_state'
GATE = 'gate'


class Observation(NamedTuple):
  """What a signal may look at, for each token of one readout, float32.

  On the first readout there is no previous one: `kl` and `state_change` are
  +inf and `state_cosine` -inf, which makes their signals' scores -inf there.
  """

  nll: jax.Array  # -log p(target), nats
  argmax: jax.Array  # most likely token, int32
  max_prob: jax.Array  # its probability
  margin: jax.Array  # its probability minus the second one's
  entropy: jax.Array  # of the distribution, in units of log V
  state_cosine: jax.Array  # of this and the previous readout's state
  state_change: jax.Array  # length of their difference, in previous lengths
  kl: jax.Array  # KL(previous || this), nats
  gate: dict[str, jax.Array]  # [..., O] outputs of learned signals, by name


def blank(shape: tuple[int, ...]) -> Observation:
  """An observation that says nothing, for readouts without head or previous."""
  zeros = jnp.zeros(shape)
  infinite = jnp.full(shape, jnp.inf)
  return Observation(
    nll=zeros,
    argmax=jnp.zeros(shape, jnp.int32),
    max_prob=zeros,
    margin=zeros,
    entropy=zeros,
    state_cosine=-infinite,
    state_change=infinite,
    kl=infinite,
    gate={},
  )


class Lesson(NamedTuple):
  """What a gate may learn from in one segment of a batch.

  Attributes:
    output_R: outputs of the gate at the readouts of the segment, [B, T, O].
    observe: r -> what the segment's readout r says of each token.
    target_BxT: the true next tokens.
    next_R: outputs of the gate one segment later, with the same parameters;
      empty unless the gate looks `ahead`.
    number: of the segment, from 1.
    segments: S.
    exploration: chance that a token must go on, whatever the gate says.
    key: for that chance.
  """

  output_R: tuple[jax.Array, ...]
  observe: Callable[[int], Observation]
  target_BxT: jax.Array
  next_R: tuple[jax.Array, ...]
  number: jax.Array
  segments: int
  exploration: float
  key: jax.Array


class GridLesson(NamedTuple):
  """What a gate may learn from all readouts of a batch at once.

  Only the outputs carry a gradient.

  Attributes:
    output_KxBxTxO: outputs of the gate.
    nll_KxBxT: loss of each readout, nats.
    argmax_KxBxT: what each readout would answer, int32.
    target_BxT: the true next tokens.
    mask_BxT: 1 for tokens that count, 0 for padding.
    depth_K: cells that a token runs up to each readout.
    settings: fields `gate_*` of the config's section `loss`, by name.
  """

  output_KxBxTxO: jax.Array
  nll_KxBxT: jax.Array
  argmax_KxBxT: jax.Array
  target_BxT: jax.Array
  mask_BxT: jax.Array
  depth_K: tuple[int, ...]
  settings: Mapping[str, Any]

  @property
  def agrees_KxBxT(self) -> jax.Array:
    """Whether each readout answers as the last one does."""
    return self.argmax_KxBxT == self.argmax_KxBxT[-1:]

  @property
  def correct_KxBxT(self) -> jax.Array:
    """Whether each readout answers with the true next token."""
    return self.argmax_KxBxT == self.target_BxT[None]


class Learned(NamedTuple):
  """The loss of a gate, and whose training it ends."""

  loss_BxT: jax.Array  # nats
  halts_BxT: jax.Array | None = None  # bool; None = nobody's


@dataclasses.dataclass(frozen=True)
class Gate:
  """The learned part of a signal: a small module on the state of a readout.

  Attributes:
    init: (key, D) -> parameters, a tree of arrays.
    apply: (parameters, h [..., D]) -> outputs [..., O], float32.
    flops: D -> FLOPs of one token.
    loss: what it learns from one segment; None = nothing.
    grid_loss: what it learns from all readouts, nats [B, T]; None = nothing.
    ahead: whether the loss looks at the next segment, which is then run once
      more, forward only.
    ends_only: whether it is trained at the last readout of a segment alone.
  """

  init: Callable[[jax.Array, int], Any]
  apply: Callable[[Any, jax.Array], jax.Array]
  flops: Callable[[int], float]
  loss: Callable[[Lesson], Learned] | None = None
  grid_loss: Callable[[GridLesson], jax.Array] | None = None
  ahead: bool = False
  ends_only: bool = False


def _no_memory(shape: tuple[int, ...]) -> Memory:
  del shape
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
    init: shape -> memory before the first readout.
    remembers: whether `step` needs to have seen all earlier readouts.
    gate: the learned part, or None.
  """

  name: str
  step: Callable[[Memory, Observation], tuple[Memory, jax.Array]]
  looks_at: frozenset[str]
  low: float
  high: float
  sweep: tuple[float, ...]
  init: Callable[[tuple[int, ...]], Memory] = _no_memory
  remembers: bool = False
  gate: Gate | None = None

  @property
  def needs_head(self) -> bool:
    """Whether logits must be computed before anybody knows who stops."""
    return bool(self.looks_at & {LOGITS, PREVIOUS_LOGITS})

  @property
  def compares_logits(self) -> bool:
    """Whether it looks at the logits of the readout before."""
    return PREVIOUS_LOGITS in self.looks_at

  @property
  def has_memory(self) -> bool:
    """Whether a readout can be asked only if all before it were."""
    return self.remembers or self.compares_logits

  @property
  def can_draft(self) -> bool:
    """Whether one readout's logits are enough for a score."""
    return self.looks_at == {LOGITS} and not self.remembers

  def flops(self, dim: int) -> float:
    """FLOPs of asking it once, a head not included; D is `dim`."""
    if self.gate is not None:
      return self.gate.flops(dim)
    # A product of two states and their two norms.
    return 0.0 if self.needs_head else 6.0 * dim

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


def _no_agreement(shape: tuple[int, ...]) -> _Agreement:
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


def _before_all(shape: tuple[int, ...]) -> jax.Array:
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


def scores(signal: Signal, observations: Sequence[Observation]) -> jax.Array:
  """Score of every readout from their observations, [K, ...] float32."""
  memory = signal.init(observations[0].nll.shape)
  score_K = []

  for obs in observations:
    memory, score = signal.step(memory, obs)
    score_K.append(score)

  return jnp.stack(score_K)
