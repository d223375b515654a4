"""What a training run cost: where its seconds went, and at which rate."""

import dataclasses

from ease_jax.evaluate.facts import TrainFacts
from ease_jax.report import html
from ease_jax.train import running

# What each part is called on the page.
NAMES = {
  running.UPDATES: 'updates',
  running.DATA: 'waiting for data',
  running.COMPILING: 'compiling',
  running.EVALUATION: 'evaluation on select',
  running.CHECKPOINTS: 'checkpoints',
}
_PREFIXES = ((1e15, 'P'), (1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1.0, ''))


@dataclasses.dataclass(frozen=True)
class Spent:
  """A row of the table.

  Attributes:
    name: what the time was spent on.
    seconds: how much.
    share: of all seconds.
  """

  name: str
  seconds: float
  share: float


def rows(train: TrainFacts) -> list[Spent]:
  """The seconds of training by what they were spent on; none of older runs."""
  if not train.seconds:
    return []
  total = sum(train.seconds.values())
  return [
    Spent(NAMES[part], seconds, seconds / total)
    for part, seconds in train.seconds.items()
  ]


def speed(train: TrainFacts) -> str:
  """FLOP/s of the updates, and how much of the devices that is; '' unknown."""
  if train.flops_per_s is None:
    return ''
  said = f'{flops(train.flops_per_s)}FLOP/s on {train.devices}'
  if train.mfu is None:
    return f'{said}, of which no published peak is known here'
  return f'{said}, {html.percent(train.mfu)} of their published peak (MFU)'


def flops(value: float) -> str:
  """4.2e10 -> `42.0 G`: three digits and a prefix."""
  unit, prefix = next(
    (unit, prefix) for unit, prefix in _PREFIXES if value >= unit or not prefix
  )
  return f'{value / unit:.3g}{html.NARROW_SPACE}{prefix}'
