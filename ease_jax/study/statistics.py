"""What a study's runs say: spreads, paired tests, sizes that are equal."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import scipy.stats

from ease_jax.evaluate.results import Results
from ease_jax.report.comparison import (
  Comparison,
  Pair,
  RunRow,
  Sizes,
  Spread,
  Variant,
)
from ease_jax.study import frontier
from ease_jax.study.study import Study

SAME = 0.03  # sizes within 3 % of each other count as equal
# Sizes that two variants may have in common, and their names on the page.
KINDS = {
  'updates': 'updates',
  'flops': 'training FLOPs',
  'inference_flops': 'inference FLOPs',
  'params': 'parameters',
}

Runs = Mapping[int, Results]  # by seed


def summarize(
  study: Study, runs_of: Mapping[str, Runs], failed: Sequence[str]
) -> Comparison:
  """What `comparison.json` says.

  Args:
    study: what was run.
    runs_of: variant -> seed -> results; variants may lack seeds, or all.
    failed: one line for each run that failed.
  """
  runs_of = {name: runs for name, runs in runs_of.items() if runs}
  pairs = [
    _pair(name, baseline, runs_of[name], runs_of[baseline])
    for name, baseline in study.pairs
    if _common_seeds(runs_of.get(name, {}), runs_of.get(baseline, {}))
  ]

  return Comparison(
    title=study.title,
    question=study.question,
    seeds=study.seeds,
    same=SAME,
    variants=tuple(_variant(name, runs) for name, runs in runs_of.items()),
    pairs=_with_holm(pairs),
    frontier=frontier.frontier(study.frontier, runs_of),
    failed=tuple(failed),
  )


def spread(values: Sequence[float] | np.ndarray) -> Spread:
  """Mean and sample standard deviation of at least one value."""
  values = [float(value) for value in values]
  sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
  return Spread(float(np.mean(values)), sd, tuple(values))


def holm(ps: Sequence[float | None]) -> list[float | None]:
  """p-values that allow for their number (Holm 1979).

  Args:
    ps: of the tests; None where there was no test, which then counts for
      nothing and stays None.
  """
  tested = sorted((p, i) for i, p in enumerate(ps) if p is not None)
  adjusted: list[float | None] = [None] * len(ps)

  highest = 0.0
  for rank, (p, i) in enumerate(tested):
    highest = max(highest, min(1.0, (len(tested) - rank) * p))
    adjusted[i] = highest
  return adjusted


def _run_row(run: Results) -> RunRow:
  last = run.readouts[-1]
  chosen = run.chosen.report
  return RunRow(
    seed=run.seed,
    select_ppl=last.select.ppl,
    report_ppl=last.report.ppl,
    chosen_ppl=chosen.quality.ppl,
    chosen_compute=chosen.cost.compute,
    sizes=Sizes(
      params=run.model.params,
      steps=run.train.steps,
      updates=run.train.updates,
      tokens=run.train.tokens,
      flops=run.train.flops,
      inference_flops=last.flops_static,
    ),
  )


def _variant(name: str, runs: Runs) -> Variant:
  rows = tuple(_run_row(run) for run in runs.values())
  return Variant(
    name=name,
    runs=rows,
    select_ppl=spread([row.select_ppl for row in rows]),
    report_ppl=spread([row.report_ppl for row in rows]),
    chosen_ppl=spread([row.chosen_ppl for row in rows]),
    chosen_compute=spread([row.chosen_compute for row in rows]),
    sizes=_mean_sizes(rows),
  )


def _mean_sizes(rows: Sequence[RunRow]) -> Sizes:
  def mean(field: str) -> float:
    return float(np.mean([getattr(row.sizes, field) for row in rows]))

  return _sizes(mean)


def _sizes(value_of: Callable[[str], float]) -> Sizes:
  fields = [field.name for field in dataclasses.fields(Sizes)]
  return Sizes(**{field: value_of(field) for field in fields})


def _common_seeds(runs: Runs, others: Runs) -> list[int]:
  return sorted(runs.keys() & others.keys())


def _pair(name: str, baseline: str, runs: Runs, base_runs: Runs) -> Pair:
  """One held against the other, in the seeds that both have."""
  seeds = _common_seeds(runs, base_runs)
  nll_S = np.asarray([_nll(runs[seed]) for seed in seeds])
  base_nll_S = np.asarray([_nll(base_runs[seed]) for seed in seeds])

  p = None
  if len(seeds) > 1 and np.ptp(nll_S - base_nll_S) > 0:
    p = float(scipy.stats.ttest_rel(nll_S, base_nll_S).pvalue)

  sizes = _mean_sizes([_run_row(runs[seed]) for seed in seeds])
  base_sizes = _mean_sizes([_run_row(base_runs[seed]) for seed in seeds])

  def ratio(field: str) -> float:
    return getattr(sizes, field) / getattr(base_sizes, field)

  return Pair(
    variant=name,
    baseline=baseline,
    seeds=tuple(seeds),
    change=spread(np.expm1(nll_S - base_nll_S)),
    p=p,
    p_holm=None,
    equal=tuple(
      label for field, label in KINDS.items() if abs(ratio(field) - 1) <= SAME
    ),
    ratios=_sizes(ratio),
  )


def _nll(run: Results) -> float:
  """Of the last readout on the split that reports."""
  return run.readouts[-1].report.nll


def _with_holm(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
  adjusted = holm([pair.p for pair in pairs])
  return tuple(
    dataclasses.replace(pair, p_holm=p_holm)
    for pair, p_holm in zip(pairs, adjusted)
  )
