"""What gates learn, and how: the fields of section `loss` about them."""

import dataclasses
from typing import Annotated

from ease_jax.checks import (
  Different,
  NotNegative,
  OneOf,
  ReadIf,
  Share,
  Size,
  check_fields,
  need,
)
from ease_jax.core import depth_adaptive, halting, ouro
from ease_jax.core.gates import Gate
from ease_jax.core.signals import SIGNALS

_Dat = ReadIf('gates', (depth_adaptive.NAME, depth_adaptive.MULTINOMIAL))
_Ouro = ReadIf('gates', (ouro.NAME,))
_Halting = ReadIf('gates', (halting.NAME,))


@dataclasses.dataclass(frozen=True)
class GateSpec:
  """The fields of section `loss` that say what gates learn.

  Attributes:
    gates: learned signals that are trained.
    gate_weight: weight of their losses.
    gate_dim: width of their hidden layer; 0 = none.
    gate_gradient: their losses move the model too, not only the gates.
    gate_exploration: chance that a token must go on, whatever its gate says.
    gate_oracle: what names the readout where a token should have stopped.
    gate_price: what the oracle asks every further cell to bring.
    gate_smoothing: width of the oracle's kernel over neighbours; 0 = none.
    gate_objective: what ouro's gate learns.
    gate_entropy: weight of its distribution's entropy, beta.
    gate_weighs: its distribution weighs the losses of the readouts.
  """

  gates: Annotated[tuple[Annotated[str, OneOf(SIGNALS)], ...], Different()] = ()
  gate_weight: Annotated[NotNegative, ReadIf('gates')] = 0.0
  gate_dim: Annotated[Size, ReadIf('gates')] = 0
  gate_gradient: Annotated[bool, ReadIf('gates')] = True
  gate_exploration: Annotated[Share, _Halting] = 0.0
  gate_oracle: Annotated[str, OneOf(depth_adaptive.ORACLES), _Dat] = (
    depth_adaptive.ORACLES[0]
  )
  gate_price: Annotated[NotNegative, _Dat] = 0.0
  gate_smoothing: Annotated[NotNegative, _Dat] = 0.0
  gate_objective: Annotated[str, OneOf(ouro.OBJECTIVES), _Ouro] = (
    ouro.OBJECTIVES[0]
  )
  gate_entropy: Annotated[NotNegative, _Ouro] = 0.0
  gate_weighs: Annotated[bool, _Ouro] = False

  def __post_init__(self):
    check_fields('loss', self)
    for name in self.gates:
      need(
        SIGNALS[name].gate is not None,
        f'loss.gates names {name}, which has nothing to learn; leave it out',
      )

    need(
      not self.gate_weighs or self.gate_objective == ouro.OBJECTIVES[0],
      f'loss.gate_weighs=True does not fit loss.gate_objective='
      f'{self.gate_objective}, which is for a model that no longer learns; use '
      f'{ouro.OBJECTIVES[0]}, or False',
    )

  def check(
    self, readouts: int, segments: int, *, per_segment: bool, exit_rows: float
  ) -> None:
    """Raises ConfigError unless the gates can learn in such a training.

    Args:
      readouts: K, of the whole model.
      segments: S.
      per_segment: each segment is an update of its own.
      exit_rows: share of the rows in which tokens stop while training.
    """
    for name, gate in self._of(self.gates).items():
      need(
        not gate.ends_only or readouts == segments,
        f'loss.gates names {name}, which learns at the end of a segment only; '
        'let model.readouts name the last layer alone',
      )
      if gate.grid_loss is None:
        continue
      need(
        readouts > 1,
        f'loss.gates names {name}, which learns where to stop, and the model '
        'has one readout; add more to model.readouts',
      )
      need(
        not per_segment,
        f'loss.gates names {name}, which learns from all segments together, '
        'and train.updates=per_segment makes an update of each; use joint',
      )
      need(
        exit_rows < 1,
        f'loss.gates names {name}, which learns in rows without exits, and '
        f'loss.exit_rows={exit_rows} leaves none; lower it',
      )

  @staticmethod
  def _of(names: tuple[str, ...]) -> dict[str, Gate]:
    gates = {name: SIGNALS[name].gate for name in names}
    return {name: gate for name, gate in gates.items() if gate is not None}

  @property
  def learned(self) -> tuple[str, ...]:
    """Signals whose gates are trained."""
    return self.gates if self.gate_weight else ()

  @property
  def from_grid(self) -> tuple[str, ...]:
    """Those of them that look at all readouts at once."""
    gates = self._of(self.learned)
    return tuple(name for name, gate in gates.items() if gate.grid_loss)

  @property
  def weighing(self) -> str | None:
    """The signal whose gate weighs the losses of the readouts."""
    if not self.gate_weighs:
      return None
    gates = self._of(self.learned)
    return next((name for name, gate in gates.items() if gate.weighs), None)

  @property
  def compares(self) -> bool:
    """Whether a gate looks at KLs from the last readout."""
    return any(gate.compares for gate in self._of(self.from_grid).values())

  @property
  def ahead(self) -> bool:
    """Whether a gate looks at the segment that comes next."""
    return any(gate.ahead for gate in self._of(self.learned).values())

  @property
  def heads(self) -> float:
    """Heads that run for a token at each readout, so that gates may learn."""
    # The last readout's again, beside each, to compare with.
    return float(bool(self.learned)) + float(self.compares)
