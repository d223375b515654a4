"""Gates: the learned part of a signal, and what it learns from."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from ease_jax.core.observations import Observation


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
    kl_KxBxT: KL(last readout || this one), nats; None unless the gate
      `compares`, and where it only `foretells`.
    target_BxT: the true next tokens.
    mask_BxT: 1 for tokens that count, 0 for padding.
    depth_K: cells that a token runs up to each readout.
    settings: fields `gate_*` of the config's section `loss`, by name.
  """

  output_KxBxTxO: jax.Array
  nll_KxBxT: jax.Array
  argmax_KxBxT: jax.Array
  kl_KxBxT: jax.Array | None
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


class Foretold(NamedTuple):
  """What a gate foretold, and what came of it.

  Attributes:
    what: it is, in words.
    foretold_KxBxT: what the gate said.
    happened_KxBxT: what was to be foretold; on average the same, if the gate is
      right. A thing that happens or does not is 1 or 0.
    asked_KxBxT: bool, the tokens and readouts of which it was to be foretold;
      the last readout, which decides nothing, never counts.
  """

  what: str
  foretold_KxBxT: jax.Array
  happened_KxBxT: jax.Array
  asked_KxBxT: jax.Array


class GateShape(NamedTuple):
  """What signals cost and the parameters of a gate are made for."""

  dim: int  # D
  hidden: int  # width of a hidden layer, `loss.gate_dim`; 0 = none
  readouts: int  # K, of the whole model
  frequent: int = 0  # C, tokens that are asked about in the place of all


class Learned(NamedTuple):
  """The loss of a gate, and whose training it ends."""

  loss_BxT: jax.Array  # nats
  halts_BxT: jax.Array | None = None  # bool; None = nobody's


@dataclasses.dataclass(frozen=True)
class Gate:
  """The learned part of a signal: a small module on the state of a readout.

  Attributes:
    init: (key, shape) -> parameters, a tree of arrays.
    apply: (parameters, h [..., D], k) -> outputs [..., O] at readout k of all,
      from 0; float32. k is an array where one program runs several segments.
    flops: (shape, k) -> FLOPs of one token at readout k.
    loss: what it learns from one segment; None = nothing.
    grid_loss: what it learns from all readouts, nats [B, T]; None = nothing.
    foretells: what it says of the tokens of an evaluation, and what came of
      it; None = its number is no forecast.
    weighs: whether it may say how much each readout's loss counts for a token.
    compares: whether `grid_loss` looks at KLs from the last readout, which
      take one more head each.
    ahead: whether the loss looks at the next segment, which is then run once
      more, forward only.
    ends_only: whether it is trained at the last readout of a segment alone.
  """

  init: Callable[[jax.Array, GateShape], Any]
  apply: Callable[[Any, jax.Array, int | jax.Array], jax.Array]
  flops: Callable[[GateShape, int], float]
  loss: Callable[[Lesson], Learned] | None = None
  grid_loss: Callable[[GridLesson], jax.Array] | None = None
  foretells: Callable[[GridLesson], Foretold | None] | None = None
  weighs: bool = False
  compares: bool = False
  ahead: bool = False
  ends_only: bool = False
