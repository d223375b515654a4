"""What a study's runs say: spreads, differences, sizes that are equal."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ease_jax.evaluate.facts import Provenance
from ease_jax.report import headline
from ease_jax.report.comparison import (
  Change,
  Comparison,
  Pair,
  RunRow,
  Sizes,
  Variant,
)
from ease_jax.study import frontier, recurrence, signals, uncertainty
from ease_jax.study.paired import (
  at_readout,
  common_seeds,
  nll_of,
  ratio_interval,
  spread,
)
from ease_jax.study.study import Evaluated, Runs, Study, changes

SAME = 0.03  # sizes within 3 % of each other count as equal
# Sizes that two variants may have in common, and their names on the page.
KINDS = {
  'updates': 'updates',
  'flops': 'training FLOPs',
  'inference_flops': 'inference FLOPs',
  'params': 'parameters',
}


def summarize(
  study: Study,
  runs_of: Mapping[str, Runs],
  failed: Sequence[str],
  provenance: Provenance,
) -> Comparison:
  """What `comparison.json` says.

  Args:
    study: what was run.
    runs_of: variant -> seed -> results; variants may lack seeds, or all.
    failed: one line for each run that failed.
    provenance: of the comparison.
  """
  changes_of = changes(study.variants)
  runs_of = {name: runs for name, runs in runs_of.items() if runs}
  pairs = [
    _pair(name, baseline, runs_of[name], runs_of[baseline])
    for name, baseline in study.pairs
    if common_seeds(runs_of.get(name, {}), runs_of.get(baseline, {}))
  ]

  return Comparison(
    title=study.title,
    question=study.question,
    seeds=study.seeds,
    same=SAME,
    variants=tuple(
      _variant(name, changes_of[name], runs) for name, runs in runs_of.items()
    ),
    pairs=tuple(pairs),
    frontier=frontier.frontier(study.frontier, runs_of),
    failed=tuple(failed),
    smoke=_smoke(runs_of),
    provenance=provenance,
    recoveries=recurrence.recoveries(study.recoveries, runs_of),
    depths=recurrence.depths(study.depths, runs_of),
    signals=signals.costs(study.signals, runs_of),
  )


def _smoke(runs_of: Mapping[str, Runs]) -> str:
  """Why the first run that is too small is so."""
  for runs in runs_of.values():
    for run in runs.values():
      reason = headline.smoke(run.results)
      if reason:
        return reason
  return ''


def _run_row(evaluated: Evaluated) -> RunRow:
  run = evaluated.results
  last = run.readouts[-1]
  chosen = run.chosen.report
  return RunRow(
    seed=run.seed,
    select_ppl=last.select.ppl,
    report_ppl=last.report.ppl,
    chosen_ppl=chosen.quality.ppl,
    chosen_compute=chosen.cost.compute,
    chosen_flops=chosen.cost.compute * evaluated.windows.full_flops,
    sizes=Sizes(
      params=run.model.params,
      steps=run.train.steps,
      updates=run.train.updates,
      tokens=run.train.tokens,
      flops=run.train.flops,
      inference_flops=last.flops_static,
    ),
  )


def _variant(name: str, changed: tuple[str, ...], runs: Runs) -> Variant:
  rows = tuple(_run_row(run) for run in runs.values())
  every = list(runs.values())
  interval = uncertainty.of_mean(*at_readout(every))
  return Variant(
    name=name,
    changes=changed,
    runs=rows,
    select_ppl=spread([row.select_ppl for row in rows]),
    report_ppl=spread([row.report_ppl for row in rows]),
    report_ppl_interval=uncertainty.of_ratio(interval),
    chosen_ppl=spread([row.chosen_ppl for row in rows]),
    chosen_compute=spread([row.chosen_compute for row in rows]),
    chosen_flops=spread([row.chosen_flops for row in rows]),
    sizes=_mean_sizes(rows),
    readouts=tuple(
      spread([run.results.readouts[k].report.ppl for run in every])
      for k in _common_readouts(every)
    ),
  )


def _common_readouts(runs: Sequence[Evaluated]) -> range:
  """The readouts of all runs; none where they have not the same number."""
  numbers = {len(run.results.readouts) for run in runs}
  return range(numbers.pop()) if len(numbers) == 1 else range(0)


def _mean_sizes(rows: Sequence[RunRow]) -> Sizes:
  def mean(field: str) -> float:
    return float(np.mean([getattr(row.sizes, field) for row in rows]))

  return _sizes(mean)


def _sizes(value_of: Callable[[str], float]) -> Sizes:
  fields = [field.name for field in dataclasses.fields(Sizes)]
  return Sizes(**{field: value_of(field) for field in fields})


def _pair(name: str, baseline: str, runs: Runs, base_runs: Runs) -> Pair:
  """One held against the other, in the seeds that both have."""
  seeds = common_seeds(runs, base_runs)
  here = [runs[seed] for seed in seeds]
  there = [base_runs[seed] for seed in seeds]
  more_S = nll_of(here) - nll_of(there)

  sizes = _mean_sizes([_run_row(run) for run in here])
  base_sizes = _mean_sizes([_run_row(run) for run in there])

  def ratio(field: str) -> float:
    return getattr(sizes, field) / getattr(base_sizes, field)

  return Pair(
    variant=name,
    baseline=baseline,
    seeds=tuple(seeds),
    change=spread(np.expm1(more_S)),
    ratio=math.exp(np.mean(more_S)),
    interval=ratio_interval(here, there),
    equal=tuple(
      label for field, label in KINDS.items() if abs(ratio(field) - 1) <= SAME
    ),
    ratios=_sizes(ratio),
    readouts=tuple(
      Change(
        math.exp(np.mean(nll_of(here, k) - nll_of(there, k))),
        ratio_interval(here, there, k),
      )
      for k in _common_readouts([*here, *there])
    ),
  )
