"""Tables of signals: what each needs to be nearly as good as full depth."""

import dataclasses
import math

import numpy as np

from ease_jax.core.signals import MAX_PROB, SIGNALS
from ease_jax.evaluate.results import REPORT, Results
from ease_jax.report import drawing, quality, tables
from ease_jax.report.comparison import Comparison, SignalCost
from ease_jax.report.quality import Curve

LEVEL = 1.01  # perplexity at which signals are compared, over full depth's


@dataclasses.dataclass(frozen=True)
class SignalRow:
  """A signal on the page.

  Attributes:
    name: of the signal.
    learned: whether it has a gate.
    compute: where it reaches LEVEL on the split that reports, straight lines
      between the points of the sweep; None where it does not.
    closed: share of the way from `max_prob` to the clairvoyant frontier, at
      the same perplexity; below 0 it costs more; None where one is unknown.
  """

  name: str
  learned: bool
  compute: float | None
  closed: float | None


@dataclasses.dataclass(frozen=True)
class GateLine:
  """What a gate foretold at one readout, and what happened.

  Attributes:
    signal: whose gate.
    what: it foretells.
    readout: its name.
    error: how far both are from each other.
    tokens: in all groups together.
  """

  signal: str
  what: str
  readout: str
  error: float
  tokens: int


def gate_lines(results: Results) -> list[GateLine]:
  """One line for each gate and readout of which it foretells something."""
  return [
    GateLine(
      signal=row.signal,
      what=row.what,
      readout=drawing.cell_name(row, results.model.segments),
      error=row.error,
      tokens=sum(part.count for part in row.bins),
    )
    for row in results.gates
  ]


def silent_gates(results: Results) -> list[str]:
  """Learned signals that were swept and foretell nothing."""
  telling = {row.signal for row in results.gates}
  return [
    row.name
    for row in signal_rows(results)
    if row.learned and row.name not in telling
  ]


def signal_rows(results: Results) -> list[SignalRow]:
  """One row per signal that was swept, under the chosen K/V policy."""
  compute_of = needed(results, LEVEL)
  least = least_at(results, LEVEL)
  usual = compute_of.get(MAX_PROB.name)

  rows = []
  for name, compute in compute_of.items():
    share = closed(compute, usual, least)
    learned = name in SIGNALS and SIGNALS[name].gate is not None
    rows.append(SignalRow(name, learned, compute, share))
  return rows


def needed(results: Results, level: float) -> dict[str, float | None]:
  """What each signal needs, under the chosen K/V policy.

  Args:
    results: of a run.
    level: perplexity to reach on the split that reports, over full depth's.

  Returns:
    signal -> compute; None where it does not reach that.
  """
  ppl = level * results.off(REPORT).quality.ppl
  policy = results.chosen.policy
  compute_of = {}
  for name in quality.swept(results):
    scalar = quality.scalar_curve(results, name, policy)
    searched = quality.searched_curve(results, name, policy)
    compute_of[name] = compute_at([*scalar, *searched], ppl)
  return compute_of


def least_at(results: Results, level: float) -> float | None:
  """What those need who know all losses; arguments as those of `needed`."""
  ppl = level * results.off(REPORT).quality.ppl
  return compute_at(quality.clairvoyant_curve(results), ppl)


def closed(
  compute: float | None, usual: float | None, least: float | None
) -> float | None:
  """Share of the way from the usual compute to the least one."""
  if compute is None or usual is None or least is None or usual <= least:
    return None
  return (usual - compute) / (usual - least)


def compute_at(curve: Curve, ppl: float) -> float | None:
  """The least compute at which a curve is no worse than a perplexity.

  Only points that no cheaper one beats count; lines between them are straight.

  Args:
    curve: points in any order.
    ppl: the perplexity.
  """
  best = math.inf
  front: Curve = []
  for compute, here in sorted(curve):
    if here < best:
      best = here
      front.append((compute, here))

  if not front or best > ppl:
    return None
  computes, ppls = zip(*front)
  return float(np.interp(-ppl, np.negative(ppls), computes))


def costs_table(
  comparison: Comparison,
) -> tuple[list[str], list[list[str]]]:
  """Columns and rows of a study's signals: a column for each level."""
  cells_of: dict[tuple[str, str], dict[float, str]] = {}
  for cost in comparison.signals:
    signal = cost.signal or 'knows all losses'
    cells = cells_of.setdefault((cost.variant, signal), {})
    cells[cost.level] = _cost_cell(cost)

  levels = list(dict.fromkeys(cost.level for cost in comparison.signals))
  columns = [f'at {100 * (level - 1):+.1f} %' for level in levels]
  rows = [[*names, *cells.values()] for names, cells in cells_of.items()]
  return ['variant', 'signal', *columns], rows


def _cost_cell(cost: SignalCost) -> str:
  """Compute, and in brackets the share of the way that is closed."""
  if cost.compute is None:
    return 'not reached'
  compute = tables.spread(cost.compute, 1, 100) + ' %'
  if cost.closed is None:
    return compute
  return f'{compute} ({100 * cost.closed:.0f} %)'
