"""What layers that run again are worth, and models after fewer runs."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ease_jax.evaluate.windows import draws, per_token
from ease_jax.report.comparison import Depth, Recovery
from ease_jax.study import uncertainty
from ease_jax.study.paired import (
  at_readout,
  common_seeds,
  nll_of,
  ratio_interval,
  same_windows,
  spread,
)
from ease_jax.study.study import Evaluated, Runs


def recoveries(
  asked: Sequence[tuple[str, str, str]], runs_of: Mapping[str, Runs]
) -> tuple[Recovery, ...]:
  """How much of own layers' gain it brings to repeat layers.

  Args:
    asked: (variant, the same layers once, own layers for all runs).
    runs_of: variant -> seed -> results; those that lack a seed are left out.
  """
  found = []
  for names in asked:
    all_runs = [runs_of.get(name, {}) for name in names]
    seeds = common_seeds(*all_runs)
    if seeds:
      trio = [[runs[seed] for seed in seeds] for runs in all_runs]
      found.append(_recovery(names, seeds, *trio))
  return tuple(found)


def _recovery(
  names: tuple[str, str, str],
  seeds: Sequence[int],
  tied: Sequence[Evaluated],
  fewer: Sequence[Evaluated],
  own: Sequence[Evaluated],
) -> Recovery:
  gain_S = nll_of(fewer) - nll_of(tied)
  most_S = nll_of(fewer) - nll_of(own)
  share = float(gain_S.mean() / most_S.mean())
  runs = tied[0].results.model.segments
  worth = 1 + share * (runs - 1)  # such layers in all

  interval = None
  if same_windows(tied, fewer, own):
    # What each seed adds to a ratio of means, to first order.
    share_S = share + (gain_S - share * most_S) / most_S.mean()
    interval = uncertainty.combined(share_S, *_drawn(fewer, tied, own))
  variant, once, apart = names
  return Recovery(
    variant,
    once,
    apart,
    tuple(seeds),
    share,
    interval,
    math.log(worth, runs) if worth > 0 and runs > 1 else None,
  )


def _drawn(*trio: Sequence[Evaluated]) -> tuple[np.ndarray, int]:
  """The share on windows drawn anew, and from how many."""
  _, tokens_W = at_readout(trio[0])
  drawn_BxW = draws(len(tokens_W))

  def nll_B(runs: Sequence[Evaluated]) -> np.ndarray:
    sum_SxW, _ = at_readout(runs)
    return per_token(drawn_BxW, sum_SxW.mean(0), tokens_W)

  fewer_B, tied_B, own_B = map(nll_B, trio)
  return (fewer_B - tied_B) / (fewer_B - own_B), len(tokens_W)


def depths(
  asked: Sequence[tuple[str, tuple[str, ...]]], runs_of: Mapping[str, Runs]
) -> tuple[Depth, ...]:
  """Models after fewer runs, beside twins that were trained for so many.

  A model may look as if it gained from each further run only because its early
  ones are bad: nothing says so but a model trained for them.

  Args:
    asked: (variant, a twin for each of its runs from the first).
    runs_of: variant -> seed -> results; those that lack a seed or a number of
      runs are left out.
  """
  found = []
  for name, twins in asked:
    for run, twin in enumerate(twins, 1):
      seeds = common_seeds(runs_of.get(name, {}), runs_of.get(twin, {}))
      here = [runs_of[name][seed] for seed in seeds]
      there = [runs_of[twin][seed] for seed in seeds]
      if seeds and _answers(here, run):
        found.append(_depth(name, run, twin, here, there))
  return tuple(found)


def _depth(
  name: str,
  run: int,
  twin: str,
  here: Sequence[Evaluated],
  there: Sequence[Evaluated],
) -> Depth:
  first = here[0].results
  per_run = len(first.readouts) // first.model.segments
  k = run * per_run - 1
  if first.model.elastic and run < first.model.segments:
    nll_S = _whole_way(here, run)
    interval = None
  else:
    nll_S = nll_of(here, k)
    interval = ratio_interval(here, there, k, -1)
  twin_S = nll_of(there)
  return Depth(
    variant=name,
    run=run,
    twin=twin,
    seeds=tuple(evaluated.results.seed for evaluated in here),
    ppl=spread(np.exp(nll_S)),
    twin_ppl=spread(np.exp(twin_S)),
    ratio=math.exp(np.mean(nll_S - twin_S)),
    interval=interval,
  )


def _whole_way(runs: Sequence[Evaluated], num: int) -> np.ndarray:
  """Losses of models that make the whole way in so many runs, [S] nats.

  They know no windows.
  """
  losses = [_by_runs(evaluated)[num] for evaluated in runs]
  return np.asarray(losses)


def _answers(runs: Sequence[Evaluated], num: int) -> bool:
  """Whether it is known what they say after so many runs.

  `evaluate.segments` may leave some of an elastic model's out.
  """
  model = runs[0].results.model
  if not model.elastic or num == model.segments:
    return True
  return all(num in _by_runs(evaluated) for evaluated in runs)


def _by_runs(evaluated: Evaluated) -> dict[int, float]:
  return {row.segments: row.report.nll for row in evaluated.results.segments}
