"""What a comparison's runs say: spreads, paired tests, curves, a frontier."""

import itertools
import math
from typing import Any

import numpy as np
import scipy.stats

SAME = 0.03  # quantities within 3 % of each other count as equal
BUDGETS = 24  # points of a curve of quality against compute
Runs = dict[int, Any]  # seed -> `results.json`


def summarize(exp: Any, found: dict[str, Runs]) -> dict[str, Any]:
  """What `comparison.json` says, from the results of variant -> seed."""
  found = {name: runs for name, runs in found.items() if runs}
  pairs = [
    _pair(a, b, found[a], found[b])
    for a, b in exp.pairs
    if found.get(a, {}).keys() & found.get(b, {}).keys()
  ]
  return {
    'title': exp.title,
    'question': exp.question,
    'seeds': list(exp.seeds),
    'same': SAME,
    'variants': [_variant(name, runs) for name, runs in found.items()],
    'pairs': _adjusted(pairs),
    'frontier': _frontier(exp.frontier, found),
  }


def _spread(values: Any) -> dict[str, Any]:
  """Mean, sample standard deviation (null for one value), and the values."""
  values = [float(v) for v in values]
  sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
  return {'mean': float(np.mean(values)), 'sd': sd, 'values': values}


def _run_row(run: Any) -> dict[str, Any]:
  """The numbers of one run that a comparison is about."""
  last, chosen = run['readouts'][-1], run['chosen']['test']
  return {
    'seed': run['seed'],
    'select_ppl': last['select']['ppl'],
    'test_ppl': last['test']['ppl'],
    'chosen_ppl': chosen['ppl'],
    'chosen_compute': chosen['compute'],
    'params': run['model']['params'],
    **{k: run['train'][k] for k in ('steps', 'updates', 'tokens', 'flops')},
    'inference_flops': last['cost_flops'],
  }


def _variant(name: str, runs: Runs) -> dict[str, Any]:
  rows = [_run_row(run) for run in runs.values()]
  column = lambda key: [row[key] for row in rows]
  spreads = ('select_ppl', 'test_ppl', 'chosen_ppl', 'chosen_compute')
  sizes = ('params', 'steps', 'updates', 'tokens', 'flops', 'inference_flops')
  return {
    'name': name,
    'runs': rows,
    **{key: _spread(column(key)) for key in spreads},
    **{key: float(np.mean(column(key))) for key in sizes},
  }


def _pair(a: str, b: str, runs_a: Runs, runs_b: Runs) -> dict[str, Any]:
  """Losses of `a` minus those of `b`, seed by seed, where both have run."""
  seeds = sorted(runs_a.keys() & runs_b.keys())
  nll = lambda runs: np.asarray(
    [runs[s]['readouts'][-1]['test']['nll'] for s in seeds]
  )
  difference = nll(runs_a) - nll(runs_b)
  p = None
  if len(seeds) > 1 and np.ptp(difference) > 0:
    p = float(scipy.stats.ttest_rel(nll(runs_a), nll(runs_b)).pvalue)
  kinds = {
    'updates': 'updates',
    'flops': 'training FLOPs',
    'inference_flops': 'inference FLOPs',
    'params': 'parameters',
  }
  mean = lambda runs, key: np.mean([_run_row(runs[s])[key] for s in seeds])
  ratios = {k: float(mean(runs_a, k) / mean(runs_b, k)) for k in kinds}
  return {
    'variant': a,
    'baseline': b,
    'change': _spread(np.expm1(difference)),
    'seeds': seeds,
    'p': p,
    'equal': [kinds[k] for k, r in ratios.items() if abs(r - 1) <= SAME],
    'ratios': ratios,
  }


def _adjusted(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
  """Adds `p_holm`: p-values that allow for their number (Holm 1979)."""
  tested = sorted(
    (p for p in pairs if p['p'] is not None), key=lambda p: p['p']
  )
  highest = 0.0
  for rank, pair in enumerate(tested):
    highest = max(highest, min(1.0, (len(tested) - rank) * pair['p']))
    pair['p_holm'] = highest
  return [{'p_holm': None} | pair for pair in pairs]


# ------------------------------------------------- quality against compute


def _frontier(
  names: tuple[str, ...], found: dict[str, Runs]
) -> dict[str, Any] | None:
  """Curves of all other variants, and where they lie below the frontier.

  The frontier is what models without exits reach within a budget, straight
  lines between them on log axes. Seed by seed: a curve is below it where it
  is so in every seed.
  """
  seeds = (
    sorted(set.intersection(*(set(found.get(n, {})) for n in names)))
    if names
    else []
  )
  if not seeds:
    return None
  order = sorted(
    names, key=lambda n: found[n][seeds[0]]['readouts'][-1]['cost_flops']
  )
  last = lambda n, s: found[n][s]['readouts'][-1]
  flops_M = [last(n, seeds[0])['cost_flops'] for n in order]
  nll_M = {
    s: np.asarray([last(n, s)['test']['nll'] for n in order]) for s in seeds
  }
  curves, below = {}, []
  for name, runs in found.items():
    if name in names:
      continue
    mine = [s for s in seeds if s in runs]
    if not mine:
      continue
    table_SxPx2 = _curves([runs[s] for s in mine])
    mean_Px2 = table_SxPx2.mean(0)
    gain_SxP = np.stack(
      [
        np.interp(
          np.log(t[:, 0]), np.log(flops_M), np.minimum.accumulate(nll_M[s])
        )
        - t[:, 1]
        for s, t in zip(mine, table_SxPx2)
      ]
    )
    inside_P = (mean_Px2[:, 0] >= flops_M[0]) & (mean_Px2[:, 0] <= flops_M[-1])
    curves[name] = [
      {'flops': float(f), 'ppl': math.exp(nll)}
      for f, nll in dict.fromkeys(map(tuple, mean_Px2))
    ]
    below.append(
      {'variant': name, 'seeds': len(mine)}
      | _ranges(mean_Px2[:, 0], gain_SxP, inside_P)
    )
  return {
    'points': [
      {
        'flops': f,
        'variant': n,
        'ppl': math.exp(np.mean([nll_M[s][i] for s in seeds])),
      }
      for i, (n, f) in enumerate(zip(order, flops_M))
    ],
    'curves': curves,
    'below': below,
  }


def _ranges(flops_P, gain_SxP, inside_P) -> dict[str, Any]:
  """Stretches of budgets where every seed gains, and the best mean gain."""
  mean_P = gain_SxP.mean(0)
  wins_P = inside_P & (gain_SxP > 0).all(0)
  stretches = []
  for win, group in itertools.groupby(range(len(wins_P)), wins_P.__getitem__):
    index = list(group)
    if win:
      stretches.append(
        {
          'from': float(flops_P[index[0]]),
          'to': float(flops_P[index[-1]]),
          'gain': float(mean_P[index].max()),
        }
      )
  closest = float(mean_P[inside_P].max()) if inside_P.any() else None
  return {'stretches': stretches, 'closest': closest}


def _curves(runs: list[Any]) -> np.ndarray:
  """[seeds, budgets, 2]: test FLOPs and nll at budgets of select FLOPs.

  For every budget each run uses the point that is best on the select split
  within it, and reports that point on the test split.
  """
  tables = [_points(run) for run in runs]
  low = max(min(t[:, 0]) for t in tables)
  high = max(max(t[:, 0]) for t in tables)

  def best(table: np.ndarray, budget: float) -> np.ndarray:
    allowed = table[table[:, 0] <= budget * (1 + 1e-9)]
    return allowed[allowed[:, 1].argmin()][2:]

  budgets = np.geomspace(low, high, BUDGETS)
  return np.asarray([[best(t, b) for b in budgets] for t in tables])


def _points(run: Any) -> np.ndarray:
  """[n, 4]: select FLOPs and nll, test FLOPs and nll of each setting."""
  policy, last = run['chosen']['kv_policy'], run['readouts'][-1]
  full = last['cost_flops'] / last['cost']
  split = lambda name: [
    (row['compute'] * full, row['nll'])
    for row in run['sweep']
    if row['split'] == name and row['kv_policy'] == policy
  ]
  names = run['chosen']['select_split'], run['chosen']['report_split']
  return np.hstack([np.asarray(split(name)) for name in names])
