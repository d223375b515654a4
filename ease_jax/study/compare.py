"""Several variants, several seeds, one table: which difference is real?

Every run of a study is an ordinary run in its own directory, so that a killed
comparison goes on where it was, and a failed run loses no other. Numbers come
from the runs' `results.json`, sizes and FLOPs included.
"""

import contextlib
import copy
import json
import os
import pathlib
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ease_jax import machine, specs
from ease_jax import run as run_lib
from ease_jax import workdir as folders
from ease_jax.checks import ConfigError, need
from ease_jax.data.spec import DataSpec
from ease_jax.data.task import Task
from ease_jax.data.task import load as load_task
from ease_jax.evaluate import results as results_lib
from ease_jax.evaluate import windows as windows_lib
from ease_jax.files import write_atomic
from ease_jax.lock import locked
from ease_jax.progress import stage
from ease_jax.provenance import provenance
from ease_jax.report.study import write_page
from ease_jax.study import statistics
from ease_jax.study.study import Config, Evaluated, Study, folder_of
from ease_jax.study.workers import Worker, ready

COMPARISON = 'comparison.json'
WRITTEN = (
  COMPARISON,
  'comparison.csv',
  'comparison.md',
  'report.html',
  'figures/',
  'runs/',
)
FROM_PYTHON = '# started from Python'


class Run(NamedTuple):
  """One run of a study: what a worker is given.

  Attributes:
    variant: of which it is.
    seed: of it.
    config: with that seed.
    folder: it runs in.
    source: folder of the run that it starts from, which is finished first; ''
      = of none in the study.
  """

  variant: str
  seed: int
  config: Config
  folder: str
  source: str = ''

  @property
  def name(self) -> str:
    return f'{self.variant}, seed {self.seed}'


def compare(
  study: Study,
  workdir: str | os.PathLike[str],
  jobs: int = 1,
  command: str = FROM_PYTHON,
) -> list[str]:
  """Runs what is not finished yet, then writes table, figures and page.

  Args:
    study: what to run.
    workdir: gets `runs/VARIANT/SEED/`, `comparison.json`, `comparison.csv`,
      `comparison.md`, `figures/` and `report.html`.
    jobs: runs at a time, each on its share of the cores.
    command: line of the shell that started it; the page names it.

  Returns:
    One line for each run that failed.

  Raises:
    ConfigError: a variant cannot run, or no run at all has succeeded.
  """
  need(jobs >= 1, f'--jobs={jobs} must be at least 1')
  check_configs(study)
  folder = folders.locate(workdir)
  folders.check_foreign(folder, COMPARISON, ('report.html', 'comparison.csv'))
  folders.check_places(folder, WRITTEN)
  with locked(folder):
    return _compare(study, folder, jobs, command)


def _compare(
  study: Study, workdir: pathlib.Path, jobs: int, command: str
) -> list[str]:
  """What `compare` does in a directory that nobody else writes to."""
  runs = _runs(study, workdir)
  for run in runs:
    folders.check_config(run.config, pathlib.Path(run.folder))
  todo = [run for run in runs if not _is_finished(run)]
  check_data({run.variant: run.config for run in todo})
  failed = _run_all(todo, len(runs), jobs)

  runs_of: dict[str, dict[int, Evaluated]] = {
    name: {} for name in study.variants
  }
  for run in runs:
    folder = pathlib.Path(run.folder)
    if _is_finished(run):  # and not by another config
      runs_of[run.variant][run.seed] = _evaluated(folder)
  if not any(runs_of.values()):
    raise ConfigError(f'no run of {workdir} has succeeded: {"; ".join(failed)}')

  comparison = statistics.summarize(study, runs_of, failed, provenance(command))
  text = json.dumps(comparison.to_json(), indent=2)
  write_atomic(workdir / COMPARISON, text)
  page = write_page(workdir, comparison)
  print(f'Report: {page.resolve()}')
  return failed


def _evaluated(folder: pathlib.Path) -> Evaluated:
  """What a run has left behind, if its files belong together.

  Raises:
    ConfigError: they do not.
  """
  results = results_lib.load(folder / results_lib.FILE)
  folders.check_results(results, folder)
  windows = windows_lib.load(folder / windows_lib.FILE)
  nll_K = [readout.report.nll for readout in results.readouts]
  windows_lib.check(folder / windows_lib.FILE, windows, nll_K)
  return Evaluated(results, windows)


def check_configs(study: Study) -> None:
  """Raises ConfigError if a variant cannot run; names it."""
  for name, config in study.variants.items():
    with _naming(name):
      specs.from_config(config)


def check_data(variants: Mapping[str, Config]) -> None:
  """Reads the data of each variant, alike ones once.

  Raises:
    ConfigError: those of a variant cannot be read, or are too short; names it.
  """
  tasks: dict[DataSpec, Task] = {}
  for name, config in variants.items():
    with _naming(name), stage('reading the data'):
      spec = specs.from_config(config).data
      if spec not in tasks:
        tasks[spec] = load_task(spec)
      run_lib.specs_on(config, tasks[spec])


@contextlib.contextmanager
def _naming(variant: str) -> Iterator[None]:
  """Says of which variant an error is."""
  try:
    yield
  except ConfigError as error:
    raise ConfigError(f'variant {variant!r}: {error}') from None


def _runs(study: Study, workdir: pathlib.Path) -> list[Run]:
  """All runs of a study, whether finished or not."""
  runs = []
  sources = dict(study.starts)
  for variant, config in study.variants.items():
    for seed in study.seeds:
      seeded = copy.deepcopy(config)
      seeded.seed = seed
      # Runs beside each other share the clock.
      seeded.evaluate.speed_tokens = 0
      source = ''
      if variant in sources:
        source = _folder(workdir, sources[variant], seed)
        seeded.train.init_from = source
      folder = _folder(workdir, variant, seed)
      runs.append(Run(variant, seed, seeded, folder, source))
  return runs


def _folder(workdir: pathlib.Path, variant: str, seed: int) -> str:
  return str(workdir / 'runs' / folder_of(variant) / str(seed))


def _is_finished(run: Run) -> bool:
  """Whether its results are of this config, evaluation included."""
  folder = pathlib.Path(run.folder)
  files = (results_lib.FILE, windows_lib.FILE)
  if not all((folder / name).exists() for name in files):
    return False

  # A field that is new since then may have its default.
  there = folders.read_config_file(folder / folders.CONFIG)
  return folders.as_json(there) == folders.as_json(run.config)


def _run_all(todo: Sequence[Run], total: int, jobs: int) -> list[str]:
  """Runs in processes; prints a line for each; returns those of failures.

  Args:
    todo: what to run.
    total: runs of the whole study.
    jobs: processes.
  """
  cores = machine.cores()
  workers = [
    Worker(_run_one, cores[job::jobs] or cores)
    for job in range(min(jobs, len(todo)))
  ]
  waiting = list(todo)
  failed = []
  start = time.monotonic()
  done = 0

  try:
    while waiting or any(worker.task for worker in workers):
      for worker in workers:
        run = _next(waiting, workers) if worker.task is None else None
        if run is not None:
          waiting.remove(run)
          worker.give(run)

      for worker in ready(workers):
        assert worker.task is not None
        run = Run(*worker.task)
        error = worker.take()
        done += 1
        if error:
          failed.append(f'{run.name}: {error}')

        left = (time.monotonic() - start) / done * (len(todo) - done)
        number = total - len(todo) + done
        outcome = f'FAILED: {error}' if error else 'done'
        print(
          f'[{number}/{total}] {run.name}: {outcome}; about '
          f'{left / 60:.0f} min left',
          flush=True,
        )
  finally:
    for worker in workers:
      worker.stop()

  return failed


def _next(waiting: Sequence[Run], workers: Sequence[Worker]) -> Run | None:
  """The first run that starts from none that is still to be made."""
  busy = [Run(*worker.task) for worker in workers if worker.task is not None]
  unmade = {run.folder for run in (*waiting, *busy)}
  possible = (run for run in waiting if run.source not in unmade)
  return next(possible, None)


def _run_one(
  variant: str, seed: int, config: Config, folder: str, source: str
) -> str:
  """Returns what went wrong, or nothing; the run's output is in `log.txt`."""
  del variant, seed, source
  place = pathlib.Path(folder)
  try:
    place.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    return str(error)
  with open(place / 'log.txt', 'a', encoding='utf-8') as log:
    for stream in (1, 2):  # whatever writes there, in whichever language
      os.dup2(log.fileno(), stream)

  try:
    run_lib.run(config, folder)
  except Exception as error:  # one run must not lose the others
    traceback.print_exc()
    return ' '.join(str(error).split()) or type(error).__name__
  return ''
