"""Which tokens run the layers that have a router."""

import dataclasses

from ease_jax.evaluate.passage import Passage
from ease_jax.evaluate.results import Results
from ease_jax.report import drawing, svg


@dataclasses.dataclass(frozen=True)
class Row:
  """A layer: what it is called, and the share of tokens that run it."""

  name: str
  select: float
  report: float


@dataclasses.dataclass(frozen=True)
class Section:
  """What the page says of routers.

  Attributes:
    rows: one for each layer with a router.
    shades: of tokens that run 0, 1, ... of them.
    ran: how many each token of the passage runs before its answer.
  """

  rows: tuple[Row, ...]
  shades: tuple[str, ...]
  ran: tuple[int, ...]


def section(results: Results, passage: Passage) -> Section | None:
  """The section of a run, None where all tokens run all layers."""
  if not results.routers:
    return None
  rows = [
    Row(drawing.cell_name(row, results.model.segments), row.select, row.report)
    for row in results.routers
  ]
  num = len(rows) + 1
  return Section(
    rows=tuple(rows),
    shades=tuple(f'{100 * svg.shade(k, num):.1f}%' for k in range(num)),
    ran=tuple(token.ran or 0 for token in passage.tokens),
  )
