"""Who ran the cells that have a router."""

import numpy as np

from ease_jax.evaluate.facts import RouterRow
from ease_jax.evaluate.sweep import Evaluator
from ease_jax.evaluate.traces import Trace
from ease_jax.model import Body


def router_rows(select: Evaluator, report: Evaluator) -> tuple[RouterRow, ...]:
  """Shares of the tokens that run the layers that have a router."""
  grid = report.model.grid
  rows = []
  for cell in grid.cells:
    if cell.router is None:
      continue
    segment, place = divmod(cell.number - len(grid.head), len(grid.segment))
    shares = [_share(split, cell.number) for split in (select, report)]
    rows.append(RouterRow(segment + 1, place + 1, *shares))
  return tuple(rows)


def _share(split: Evaluator, number: int) -> float:
  """Share of a split's tokens that run a cell."""
  run_LxRxT = split.dump.run_LxRxT
  assert run_LxRxT is not None
  return float(run_LxRxT[number][split.dump.mask_RxT > 0].mean())


def routed_cells(
  model: Body, trace: Trace, mask: np.ndarray
) -> list[int | None]:
  """Cells with a router that each token ran before its answer.

  None for each token of a model that has none.

  Args:
    model: a body.
    trace: where tokens stopped, [R, T].
    mask: tokens that count, [R, T] bool.
  """
  if trace.run_LxRxT is None:
    return [None] * int(mask.sum())

  reach_N = np.asarray(model.grid.reach_K)[trace.exit_RxT[mask]]
  total_N = np.zeros(len(reach_N), int)
  for cell in model.grid.cells:
    if cell.router is not None:
      total_N += trace.run_LxRxT[cell.number][mask] & (cell.number < reach_N)
  return total_N.tolist()
