"""What the signals of a variant need, and those who know all losses."""

from collections.abc import Mapping, Sequence

from ease_jax.core.signals import MAX_PROB
from ease_jax.evaluate.results import Results
from ease_jax.report import signals
from ease_jax.report.comparison import SignalCost, Spread
from ease_jax.study.paired import spread
from ease_jax.study.study import Runs

LEVELS = (1.005, 1.01, 1.02, 1.05)  # perplexity over that of full depth


def costs(
  asked: Sequence[str], runs_of: Mapping[str, Runs]
) -> tuple[SignalCost, ...]:
  """What `comparison.json` says of signals, level by level.

  Args:
    asked: variants.
    runs_of: variant -> seed -> results; those without are left out.
  """
  found: list[SignalCost] = []
  for variant in asked:
    runs = [run.results for run in runs_of.get(variant, {}).values()]
    if runs:
      for level in LEVELS:
        found += _at(variant, runs, level)
  return tuple(found)


def _at(
  variant: str, runs: Sequence[Results], level: float
) -> list[SignalCost]:
  """All signals of a variant at one level, then those who know all losses."""
  compute_of_S = [signals.needed(run, level) for run in runs]
  names = list(compute_of_S[0])
  spread_of = {
    name: _spread([compute_of[name] for compute_of in compute_of_S])
    for name in names
  }
  usual = _mean(spread_of.get(MAX_PROB.name))
  known = _spread([signals.least_at(run, level) for run in runs])
  least = _mean(known)

  rows = []
  for name in names:
    compute = spread_of[name]
    share = signals.closed(_mean(compute), usual, least)
    rows.append(SignalCost(variant, name, level, compute, share))
  rows.append(SignalCost(variant, None, level, known, None))
  return rows


def _spread(values: Sequence[float | None]) -> Spread | None:
  """Over the seeds; None where one of them has no value."""
  reached = [value for value in values if value is not None]
  return spread(reached) if len(reached) == len(values) else None


def _mean(values: Spread | None) -> float | None:
  return None if values is None else values.mean
