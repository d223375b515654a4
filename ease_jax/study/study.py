"""Several variants, several seeds, one table: which difference is real?

An experiment names variants (configs), seeds, and which variant to hold
against which. Every run is an ordinary run in its own directory, so that a
killed comparison goes on where it was, and a failed run loses no other.
Numbers come from the runs' `results.json`, sizes and FLOPs included.
"""

import collections
import copy
import dataclasses
import json
import os
import pathlib
import re
import time
import traceback
from typing import Any

from ease_jax import config, machine
from ease_jax import run as run_lib
from ease_jax.config import ConfigError
from ease_jax.report.study import write_page
from ease_jax.study import statistics
from ease_jax.study.workers import Worker, ready
from ease_jax.train import loop as train_loop
from ease_jax.train.optimizer import OptimizerSpec
from ease_jax.train.writers import write_atomic
from ease_jax.validation import validate


@dataclasses.dataclass(frozen=True)
class Study:
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
  tokens = c.train.steps * c.train.batch_size * c.data.seq_len
  cfg = config.model_config(c, vocab_size)
  return train_loop.flops_per_token(c, cfg) * tokens


def with_equal_training(c: Any, like: Any, vocab_size: int) -> Any:
  """A copy trained for as many steps as cost the training FLOPs of `like`."""
  flops = lambda c: train_flops(c, vocab_size)
  return stretched(c, flops(like) / flops(c))


def with_equal_updates(c: Any, like: Any) -> Any:
  """A copy trained for as many steps as make the updates of `like`."""
  updates = lambda c: (
    c.train.steps * OptimizerSpec.from_config(c).updates_per_step
  )
  return stretched(c, updates(like) / updates(c))


def stretched(c: Any, ratio: float) -> Any:
  """A copy of `ratio` times the steps, with all schedules in proportion."""
  c = copy.deepcopy(c)
  scale = lambda n: max(1, round(n * ratio)) if n else 0
  c.optimizer.warmup_steps = scale(c.optimizer.warmup_steps)
  c.loss.schedule_steps = scale(c.loss.schedule_steps)
  for name in ('steps', 'eval_every', 'checkpoint_every'):
    c.train[name] = scale(c.train[name])
  return c


def with_equal_depth(c: Any, like: Any) -> Any:
  """A copy with as many layers as `like` runs a token through."""
  c = copy.deepcopy(c)
  last_only = config.readouts(c.model) == (c.model.num_layers,)
  c.model.num_layers = config.model_config(like, 1).depth
  c.model.readouts = (c.model.num_layers,) if last_only else ()
  return c


# --------------------------------------------------------------------- runs


def compare(
  exp: Study, workdir: str | os.PathLike[str], jobs: int = 1
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
    run_lib.check_config(c, folder)
    if not _is_finished(c, folder):
      todo.append((variant, seed, c, str(folder)))
  failed = _run_all(todo, len(tasks), jobs)
  found = {
    variant: {
      seed: json.loads((place / 'results.json').read_text())
      for seed in exp.seeds
      if (place := _place(workdir, variant, seed))
      .joinpath('results.json')
      .exists()
    }
    for variant in exp.variants
  }
  if not any(found.values()):
    raise ConfigError(f'no run of {workdir} has succeeded: {"; ".join(failed)}')
  summary = statistics.summarize(exp, found) | {'failed': failed}
  write_atomic(workdir / 'comparison.json', json.dumps(summary, indent=2))
  page = write_page(workdir, summary)
  print(f'Report: {page.resolve()}')
  return failed


def _check(exp: Study, jobs: int) -> None:
  if jobs < 1:
    raise ConfigError(f'--jobs={jobs} must be at least 1')
  if not exp.seeds or len(set(exp.seeds)) != len(exp.seeds):
    raise ConfigError(f'seeds={exp.seeds} must be different ones, at least one')
  folders = collections.Counter(map(_folder, exp.variants))
  for folder, number in folders.items():
    if number > 1 or not folder:
      names = [name for name in exp.variants if _folder(name) == folder]
      raise ConfigError(
        f'variants {", ".join(map(repr, names))} would run in the folder '
        f'{folder!r}; rename one'
      )
  for name in {*sum(exp.pairs, ()), *exp.frontier} - exp.variants.keys():
    raise ConfigError(
      f'the study names {name!r}, which is none of its variants: '
      f'{", ".join(exp.variants)}'
    )
  for name, c in exp.variants.items():
    try:
      validate(c)
    except ConfigError as error:
      raise ConfigError(f'variant {name!r}: {error}') from None


def _is_finished(c: Any, folder: pathlib.Path) -> bool:
  """Whether its results are of this config, evaluation included."""
  if not (folder / 'results.json').exists():
    return False
  there = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
  return there == json.loads(json.dumps(run_lib.as_json(c)))


def _seeded(exp: Study, variant: str, seed: int) -> Any:
  c = copy.deepcopy(exp.variants[variant])
  c.seed = seed
  c.evaluate.speed_tokens = 0  # runs beside each other share the clock
  return c


def _place(workdir: pathlib.Path, variant: str, seed: int) -> pathlib.Path:
  return workdir / 'runs' / _folder(variant) / str(seed)


def _folder(variant: str) -> str:
  return re.sub(r'\W+', '_', variant).strip('_')


def _run_all(todo: list[Any], total: int, jobs: int) -> list[str]:
  """Runs in `jobs` processes; prints a line for each; returns failures."""
  failed, start, ran = [], time.monotonic(), 0
  waiting, cores = list(todo), machine.cores()
  workers = [
    Worker(_run_one, cores[job::jobs] or cores)
    for job in range(min(jobs, len(todo)))
  ]
  try:
    while waiting or any(w.task for w in workers):
      for worker in workers:
        if worker.task is None and waiting:
          worker.give(waiting.pop(0))
      for worker in ready(workers):
        variant, seed, *_ = worker.task
        error, ran = worker.take(), ran + 1
        if error:
          failed.append(f'{variant}, seed {seed}: {error}')
        left = (time.monotonic() - start) / ran * (len(todo) - ran)
        print(
          f'[{total - len(todo) + ran}/{total}] {variant}, seed {seed}: '
          f'{"FAILED: " + error if error else "done"}; about '
          f'{left / 60:.0f} min left',
          flush=True,
        )
  finally:
    for worker in workers:
      worker.stop()
  return failed


def _run_one(variant: str, seed: int, c: Any, folder: str) -> str:
  """Returns what went wrong, or nothing; the run's output is in `log.txt`."""
  del variant, seed
  place = pathlib.Path(folder)
  place.mkdir(parents=True, exist_ok=True)
  with open(place / 'log.txt', 'a', encoding='utf-8') as log:
    for stream in (1, 2):  # whatever writes there, in whichever language
      os.dup2(log.fileno(), stream)
  (place / 'results.json').unlink(missing_ok=True)  # of another evaluation
  try:
    run_lib.run(c, folder)
  except Exception as error:  # one run must not lose the others
    traceback.print_exc()
    return ' '.join(str(error).split()) or type(error).__name__
  return ''
