"""What a comparison's runs say: spreads, paired tests, curves, a frontier."""

import math
from typing import Any

import numpy as np
import scipy.stats

from ease_jax.report.comparison import SAME

BUDGETS = 24  # points of a curve of quality against compute


def summarize(exp: Any, found: dict[str, Any]) -> dict[str, Any]:
  """What `comparison.json` says, from the results of variant -> seed."""
  variants = [
      _variant(name, list(runs.values())) for name, runs in found.items()
      if runs]
  by_name = {v['name']: v for v in variants}
  return {
      'title': exp.title,
      'question': exp.question,
      'seeds': list(exp.seeds),
      'variants': variants,
      'pairs': [
          _pair(by_name[a], by_name[b], found[a], found[b])
          for a, b in exp.pairs if a in by_name and b in by_name
      ],
      'frontier': _frontier(exp, by_name, found),
  }


def _spread(values: list[float]) -> dict[str, Any]:
  """Mean, sample standard deviation (null for one value), and the values."""
  sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
  return {'mean': float(np.mean(values)), 'sd': sd, 'values': values}


def _variant(name: str, runs: list[Any]) -> dict[str, Any]:
  first, last = runs[0], [r['readouts'][-1] for r in runs]
  mean = lambda key: float(np.mean([r['train'][key] for r in runs]))
  return {
      'name': name,
      'seeds': [r['seed'] for r in runs],
      'params': first['model']['params'],
      'segments': first['model']['segments'],
      'layers': first['model']['layers'],
      'best_step': mean('best_step'),
      **{key: mean(key) for key in ('steps', 'updates', 'tokens', 'flops')},
      'inference_flops': last[0]['cost_flops'],
      **{
          f'{split}_ppl': _spread([r[split]['ppl'] for r in last])
          for split in ('select', 'test')
      },
      'chosen_compute': _spread([r['chosen']['test']['compute'] for r in runs]),
      'chosen_ppl': _spread([r['chosen']['test']['ppl'] for r in runs]),
  }


def _pair(a: Any, b: Any, runs_a: Any, runs_b: Any) -> dict[str, Any]:
  """log perplexity of `a` minus that of `b`, seed by seed."""
  seeds = sorted(runs_a.keys() & runs_b.keys())
  nll = lambda runs: np.asarray(
      [runs[s]['readouts'][-1]['test']['nll'] for s in seeds])
  difference = nll(runs_a) - nll(runs_b)
  p = None
  if len(seeds) > 1 and np.ptp(difference) > 0:
    p = float(scipy.stats.ttest_rel(nll(runs_a), nll(runs_b)).pvalue)
  kinds = {
      'updates': 'updates', 'flops': 'training FLOPs',
      'inference_flops': 'inference FLOPs', 'params': 'parameters'}
  return {
      'variant': a['name'],
      'baseline': b['name'],
      'change': _spread(np.expm1(difference).tolist()),
      'seeds': seeds,
      'p': p,
      'equal': [
          label for key, label in kinds.items()
          if abs(a[key] / b[key] - 1) <= SAME],
      'ratios': {key: a[key] / b[key] for key in kinds},
  }


# ------------------------------------------------- quality against compute


def _frontier(exp, by_name, found) -> dict[str, Any] | None:
  """Curves of all other variants, and where they lie below the frontier."""
  points = sorted(
      (v['inference_flops'], v['test_ppl']['mean'], name)
      for name, v in by_name.items() if name in exp.frontier)
  if not points:
    return None
  curves = {
      name: _curve(list(runs.values())) for name, runs in found.items()
      if runs and name not in exp.frontier}
  x, y = [p[0] for p in points], [math.log(p[1]) for p in points]
  below = []
  for name, curve in curves.items():
    gains = [
        (c['flops'], float(np.interp(c['flops'], x, y)) - math.log(c['ppl']))
        for c in curve if x[0] <= c['flops'] <= x[-1]]
    wins = [flops for flops, gain in gains if gain > 0]
    below.append({
        'variant': name,
        'from': min(wins, default=None),
        'to': max(wins, default=None),
        'best_gain': max((gain for _, gain in gains), default=None),
    })
  return {
      'points': [
          {'flops': flops, 'ppl': ppl, 'variant': name}
          for flops, ppl, name in points],
      'curves': curves,
      'below': below,
  }


def _curve(runs: list[Any]) -> list[dict[str, float]]:
  """Test perplexity at compute budgets, mean over the seeds.

  For every budget each run uses the point that is best on the select split
  within it, and reports that point on the test split.
  """
  tables = [_points(run) for run in runs]
  low = max(min(t[:, 0]) for t in tables)
  high = max(max(t[:, 0]) for t in tables)
  curve = []
  for budget in np.geomspace(low, high, BUDGETS):
    rows = []
    for table in tables:
      allowed = table[table[:, 0] <= budget * (1 + 1e-9)]
      rows.append(allowed[allowed[:, 1].argmin()])
    _, _, flops, nll = np.mean(rows, axis=0)
    point = {'flops': float(flops), 'ppl': float(math.exp(nll))}
    if not curve or point != curve[-1]:
      curve.append(point)
  return curve


def _points(run: Any) -> np.ndarray:
  """[n, 4]: select FLOPs and nll, test FLOPs and nll of each setting."""
  policy, last = run['chosen']['kv_policy'], run['readouts'][-1]
  full = last['cost_flops'] / last['cost']
  split = lambda name: [
      (row['compute'] * full, row['nll']) for row in run['sweep']
      if row['split'] == name and row['kv_policy'] == policy]
  names = run['chosen']['select_split'], run['chosen']['report_split']
  return np.hstack([np.asarray(split(name)) for name in names])
