"""Which tokens run the layers that have a router."""

import dataclasses

from ease_jax.evaluate.passage import Passage, PassageToken
from ease_jax.evaluate.results import Results
from ease_jax.report import drawing, svg


@dataclasses.dataclass(frozen=True)
class Row:
  """A layer: what it is called, and the share of tokens that run it."""

  name: str
  select: float
  report: float


@dataclasses.dataclass(frozen=True)
class Way:
  """A token of the passage on its way to the readout that answers it.

  Attributes:
    met: layers with a router on it.
    skipped: those of them that it passed by.
  """

  met: int
  skipped: int


@dataclasses.dataclass(frozen=True)
class Section:
  """What the page says of routers.

  Attributes:
    rows: one for each layer with a router.
    shades: of tokens that pass 0, 1, ... of them by.
    ways: one for each token of the passage.
  """

  rows: tuple[Row, ...]
  shades: tuple[str, ...]
  ways: tuple[Way, ...]


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
    ways=tuple(_way(token, results) for token in passage.tokens),
  )


def _way(token: PassageToken, results: Results) -> Way:
  """A token that left early did not skip the routers behind its exit."""
  answered = (token.segment, token.layer)
  met = sum((row.segment, row.layer) <= answered for row in results.routers)
  return Way(met, met - (token.ran or 0))
