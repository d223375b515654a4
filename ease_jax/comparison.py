"""Several variants, several seeds, one table: which difference is real?

An experiment names variants (configs), seeds, and which variant to hold
against which. Every run is an ordinary run in its own directory, so that a
killed comparison goes on where it was, and a failed run loses no other.
Numbers come from the runs' `results.json`, sizes and FLOPs included.
"""

import concurrent.futures
import copy
import dataclasses
import json
import math
import multiprocessing
import os
import pathlib
import re
import threading
import time
import traceback
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import scipy.stats
from absl import logging

from ease_jax import allocator, config, costs, experiment
from ease_jax.config import ConfigError
from ease_jax.losses import LossSpec
from ease_jax.optimizer import OptimizerSpec
from ease_jax.report.comparison import SAME, write_page
from ease_jax.validation import validate
from ease_jax.writers import write_atomic

BUDGETS = 24  # points of a curve of quality against compute


@dataclasses.dataclass(frozen=True)
class Experiment:
  """What to run and what to hold against each other.

  Attributes:
    title: of the page.
    question: what it settles, a sentence or two.
    variants: name -> config.
    seeds: each drives initialisation and data order of one run per variant.
    pairs: (variant, baseline), tested over the seeds.
    frontier: variants without exits whose perplexity against compute is what
      exits have to beat; empty = no curves.
  """

  title: str
  question: str
  variants: dict[str, Any]
  seeds: tuple[int, ...]
  pairs: tuple[tuple[str, str], ...]
  frontier: tuple[str, ...] = ()


# ------------------------------------------------- equal in what, by design


def train_flops(c: Any, vocab_size: int) -> float:
  """Training FLOPs of a config that is not stopped early."""
  spec = LossSpec.from_config(c)
  per_token = costs.train_flops_per_token(
      config.model_config(c, vocab_size), spec.supervised_fraction(),
      c.data.seq_len, halting=spec.halt_weight > 0)  # pyformat: disable
  return per_token * c.train.steps * c.train.batch_size * c.data.seq_len


def with_equal_training(c: Any, like: Any, vocab_size: int) -> Any:
  """A copy trained for as many steps as cost the training FLOPs of `like`."""
  c = copy.deepcopy(c)
  ratio = train_flops(like, vocab_size) / train_flops(c, vocab_size)
  c.train.steps = max(1, round(c.train.steps * ratio))
  return c


def with_equal_updates(c: Any, like: Any) -> Any:
  """A copy trained for as many steps as make the updates of `like`."""
  c = copy.deepcopy(c)
  updates = lambda c: OptimizerSpec.from_config(c).updates_per_step
  c.train.steps = max(1, round(like.train.steps * updates(like) / updates(c)))
  return c


def with_equal_depth(c: Any, like: Any) -> Any:
  """A copy with as many layers as `like` runs a token through."""
  c = copy.deepcopy(c)
  c.model.num_layers = config.model_config(like, 1).depth
  c.model.readouts = ()
  return c


# --------------------------------------------------------------------- runs


def compare(
    exp: Experiment, workdir: str | os.PathLike[str], jobs: int = 1
) -> list[str]:
  """Runs what is not finished yet, then writes table, figures and page.

  Args:
    exp: the experiment.
    workdir: gets `runs/VARIANT/SEED/`, `comparison.json`, `comparison.csv`,
      `comparison.md`, `figures/` and `report.html`.
    jobs: runs at a time, each on its share of the cores.

  Returns:
    One line for each run that failed.

  Raises:
    ConfigError: a variant cannot run, or no run at all has succeeded.
  """
  workdir = pathlib.Path(workdir)
  _check(exp, jobs)
  todo, tasks = [], [(v, s) for v in exp.variants for s in exp.seeds]
  for variant, seed in tasks:
    folder, c = _place(workdir, variant, seed), _seeded(exp, variant, seed)
    experiment.check_config(c, folder)
    if not (folder / 'results.json').exists():
      todo.append((variant, seed, c, str(folder)))
  failed = _run_all(todo, len(tasks), jobs)
  found = {
      variant: {
          seed: json.loads((place / 'results.json').read_text())
          for seed in exp.seeds
          if (place := _place(workdir, variant, seed)).joinpath(
              'results.json').exists()
      }
      for variant in exp.variants
  }
  if not any(found.values()):
    raise ConfigError(f'no run of {workdir} has succeeded: {"; ".join(failed)}')
  summary = summarize(exp, found) | {'failed': failed}
  write_atomic(workdir / 'comparison.json', json.dumps(summary, indent=2))
  write_page(workdir, summary)
  return failed


def _check(exp: Experiment, jobs: int) -> None:
  if jobs < 1:
    raise ConfigError(f'--jobs={jobs} must be at least 1')
  if not exp.seeds or len(set(exp.seeds)) != len(exp.seeds):
    raise ConfigError(f'seeds={exp.seeds} must be different ones, at least one')
  for name in {*sum(exp.pairs, ()), *exp.frontier} - exp.variants.keys():
    raise ConfigError(
        f'the experiment names {name!r}, which is none of its variants: '
        f'{", ".join(exp.variants)}')
  for name, c in exp.variants.items():
    try:
      validate(c)
    except ConfigError as error:
      raise ConfigError(f'variant {name!r}: {error}') from None


def _seeded(exp: Experiment, variant: str, seed: int) -> Any:
  c = copy.deepcopy(exp.variants[variant])
  c.seed = seed
  return c


def _place(workdir: pathlib.Path, variant: str, seed: int) -> pathlib.Path:
  name = re.sub(r'\W+', '_', variant).strip('_')
  return workdir / 'runs' / name / str(seed)


def _run_all(todo: list[Any], total: int, jobs: int) -> list[str]:
  """Runs in `jobs` processes; prints a line for each; returns failures."""
  failed, start = [], time.monotonic()
  if not todo:
    return failed
  cores = sorted(os.sched_getaffinity(0))
  context = multiprocessing.get_context('spawn')
  shares = context.Queue()
  for job in range(jobs):
    shares.put(cores[job::jobs] or cores)
  with concurrent.futures.ProcessPoolExecutor(
      jobs, context, _start_worker, (shares, os.getpid())) as pool:
    names = {pool.submit(_run_one, *task[2:]): task[:2] for task in todo}
    for number, done in enumerate(
        concurrent.futures.as_completed(names), total - len(todo) + 1):
      variant, seed = names[done]
      try:
        error = done.result()
      except BrokenProcessPool:
        error = 'its process was killed; the same command runs it again'
      if error:
        failed.append(f'{variant}, seed {seed}: {error}')
      ran = number - total + len(todo)
      left = (time.monotonic() - start) / ran * (len(todo) - ran)
      print(
          f'[{number}/{total}] {variant}, seed {seed}: '
          f'{"FAILED: " + error if error else "done"}; about {left / 60:.0f} '
          'min left', flush=True)  # pyformat: disable
  return failed


def _start_worker(shares: Any, parent: int) -> None:
  threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
  allocator.keep_mapped()
  logging.set_verbosity(logging.ERROR)
  os.sched_setaffinity(0, shares.get())


def _end_with(parent: int) -> None:
  """A comparison that was killed must leave no run behind."""
  while os.getppid() == parent:
    time.sleep(0.5)
  os._exit(1)


def _run_one(c: Any, folder: str) -> str:
  """Returns what went wrong, or nothing; the run's output is in `log.txt`."""
  pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  with open(pathlib.Path(folder) / 'log.txt', 'a', encoding='utf-8') as log:
    for stream in (1, 2):  # whatever writes there, in whichever language
      os.dup2(log.fileno(), stream)
  try:
    experiment.run(c, folder)
  except Exception as error:  # one run must not lose the others
    traceback.print_exc()
    return ' '.join(str(error).split()) or type(error).__name__
  return ''


# ------------------------------------------------------------------ numbers


def summarize(exp: Experiment, found: dict[str, Any]) -> dict[str, Any]:
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
