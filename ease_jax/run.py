"""One run from config to report: `run(config, workdir)`."""

import functools
import json
import os
import pathlib

import jax

from ease_jax import (
  deploy,
  devices,
  fields,
  processes,
  report,
  specs,
  teacher,
  texts,
)
from ease_jax import workdir as folders
from ease_jax.checks import need
from ease_jax.config import Config
from ease_jax.core.policies import UNITS
from ease_jax.core.spec import CAUSAL
from ease_jax.data.task import Task
from ease_jax.data.task import load as load_task
from ease_jax.deploy import chosen_point as chosen_point
from ease_jax.deploy import load_model as load_model
from ease_jax.deploy import specs_of
from ease_jax.evaluate import clock, evaluation
from ease_jax.evaluate import passage as passage_lib
from ease_jax.evaluate import results as results_lib
from ease_jax.evaluate import windows as windows_lib
from ease_jax.evaluate.evaluation import Evaluation
from ease_jax.evaluate.facts import DataFacts, TrainFacts
from ease_jax.evaluate.results import Results
from ease_jax.files import expanded, write_atomic, write_together
from ease_jax.initial import fitted, initial_params
from ease_jax.lock import LOCK
from ease_jax.progress import stage
from ease_jax.provenance import again, provenance
from ease_jax.specs import Specs
from ease_jax.specs import body_of as body_of
from ease_jax.train import history, loop, saved

MODES = ('all', 'train', 'evaluate', 'report', 'generate', 'export')
PAGE = 'report.html'

Path = str | os.PathLike[str]


def run(
  config: Config | None,
  workdir: Path,
  mode: str = 'all',
  prompt: str | None = None,
  *,
  text: str | None = None,
  command: str | None = None,
) -> None:
  """Makes a run, or one part of it, in a working directory.

  Nothing is written there before the config and the data were found good, and
  a command that fails leaves what was there.

  Args:
    config: of the run; None = the one that the directory has.
    workdir: receives the files of the run; created when missing.
    mode: one of MODES; all = train, evaluate, report.
    prompt: text to continue, for mode generate.
    text: a file, folder or glob to evaluate instead of the run's own splits,
      for mode evaluate.
    command: line of the shell that this process was started with, if it was;
      the results name it.

  Raises:
    ConfigError: something the caller must change; one line with the fix.
    TrainingDiverged, Preempted: as `train.loop.train` does.
    OSError: a file cannot be read or written; it names the file.
  """
  deploy.check_jax()
  with processes.together():
    folder, config, checked = _checked(config, workdir, mode, prompt, text)
  with devices.at_work(checked, mode):
    if mode == 'generate':
      deploy.generate(config, folder, prompt or '')
      return
    with devices.locked_by_first(folder):
      if mode == 'report':
        _report(config, folder)
      elif mode == 'export':
        with stage('exporting'):
          deploy.export(config, folder)
      elif text is not None:
        _evaluate_text(config, folder, text)
      else:
        _make(config, checked, folder, mode, command)


def _checked(
  config: Config | None,
  workdir: Path,
  mode: str,
  prompt: str | None,
  text: str | None,
) -> tuple[pathlib.Path, Config, Specs]:
  """The directory, config and specs of `run`; writes nothing.

  Raises:
    ConfigError: as `run` does.
  """
  need(mode in MODES, f'--mode={mode} is unknown; use one of {MODES}')
  need(
    mode != 'generate' or prompt is not None,
    '--mode=generate needs --prompt=TEXT',
  )
  need(
    text is None or mode == results_lib.MODE,
    f'--text={text} needs --mode={results_lib.MODE}',
  )
  if text is not None:
    expanded(text, '--text')  # or it raises
  folder = folders.locate(workdir)
  if config is None:
    config = folders.read_config(folder)
  checked = specs.on_devices(specs.from_config(config), jax.device_count())
  devices.check(checked, mode)
  trains = mode in devices.TRAINING
  folders.check_config(config, folder, may_extend=trains)

  if mode == 'generate':
    return folder, config, checked
  need(
    trains or (folder / folders.CONFIG).exists(),
    f'{folder / folders.CONFIG} is missing; run --mode=train first',
  )
  for part in _parts(folder, mode, text):
    folders.check_places(folder, (LOCK, *folders.WRITTEN[part]))
  return folder, config, checked


def _parts(folder: pathlib.Path, mode: str, text: str | None) -> list[str]:
  """The parts of `workdir.WRITTEN` that a mode writes."""
  if text is not None:
    return ['texts']
  if mode == 'all':
    return ['train', 'evaluate', 'report']
  if mode == results_lib.MODE and (folder / PAGE).exists():
    return ['evaluate', 'report']
  return [mode]


def _make(
  config: Config,
  checked: Specs,
  folder: pathlib.Path,
  mode: str,
  command: str | None,
) -> None:
  """The modes that need the run's data."""
  need(
    mode != results_lib.MODE or saved.has_steps(folder),
    f'{folder / saved.FOLDER} has no checkpoint; run --mode=train first',
  )
  if mode != results_lib.MODE:
    need(
      not checked.train.imported,
      'train.steps=0 trains nothing; use --mode=evaluate on what was imported, '
      'or train in another --workdir, with train.init_from',
    )
    teacher.check(checked)
  with stage('reading the data'), processes.together():
    # A run that starts from another one reads with the tokenizer of that.
    reader = folder if folders.is_bound(folder) else deploy.source_of(checked)
    task = load_task(checked.data, reader)
  if reader is not None:
    folders.check_context(config, reader)
  checked = specs.on_devices(specs_on(config, task), jax.device_count())

  if mode != results_lib.MODE:
    _train(config, checked, folder, task)
  if mode != 'train':
    _evaluate(config, checked, folder, task, command)
  reports = mode == 'all' or (mode != 'train' and (folder / PAGE).exists())
  if reports and processes.is_first():
    _report(config, folder)


def specs_on(config: Config, task: Task) -> Specs:
  """The specs of a config whose data have been read.

  Raises:
    ConfigError: there is too little of them.
  """
  checked = specs.from_config(config, task.vocab_size, task.eos_id)
  checked.sweep.check_data(task)
  return checked


def _train(
  config: Config, run_specs: Specs, folder: pathlib.Path, task: Task
) -> None:
  initial = None
  if not saved.has_steps(folder):
    source = deploy.source_of(run_specs)
    if source is not None:
      initial = initial_params(run_specs, source, task)

  fit = None
  if run_specs.train.fit_tokens:
    fit = functools.partial(fitted, run_specs, task)
  taught_by = teacher.load(run_specs, task)
  with processes.together():
    if processes.is_first():
      _write_beginning(config, run_specs, folder, task)

  loop.train(
    run_specs.train,
    folder,
    run_specs.body,
    task,
    loss_spec=run_specs.loss,
    opt_spec=run_specs.optimizer,
    seed=run_specs.seed,
    eval_batch_size=run_specs.sweep.batch_size,
    eval_max_tokens=run_specs.sweep.max_tokens,
    initial=initial,
    fit=fit,
    teacher=taught_by,
    made_by=fields.of_training(config),
  )


def _write_beginning(
  config: Config, run_specs: Specs, folder: pathlib.Path, task: Task
) -> None:
  """What lies in the directory before the first checkpoint."""
  if not folders.is_bound(folder):
    folders.write_config(config, folder)
    task.save(folder)
    folders.keep_origin(deploy.source_of(run_specs), folder)
  elif folders.read_steps(folder) != run_specs.train.steps:  # it is extended
    folders.write_config(config, folder)


def _evaluate(
  config: Config,
  run_specs: Specs,
  folder: pathlib.Path,
  task: Task,
  command: str | None,
) -> None:
  """Writes results.json and what belongs to it, from the best checkpoint."""
  model = run_specs.body
  best = deploy.restore_best(config, run_specs, folder, model)
  saved.check_facts(folder, best.facts, task.to_json())
  params = best.state.params
  with stage('evaluating'):
    found = evaluation.evaluate(
      run_specs.sweep, model, params, task, run_specs.loss.gating
    )
  speed = None
  if (task.attention, task.unit) == (CAUSAL, UNITS[0]):
    with stage('timing the decoder'):
      speed = clock.measure(
        run_specs.sweep, model, params, task, found.chosen, found.sweep
      )

  train = history.summary(
    best.newest_step,
    best.host,
    updates_per_step=run_specs.optimizer.updates_per_step,
    flops_per_token=run_specs.train_flops,
    once_flops=run_specs.once_flops,
  )
  results = Results(
    seed=run_specs.seed,
    model=evaluation.model_facts(model, params),
    data=DataFacts.from_json(task.to_json()),
    train=TrainFacts.from_json(train),
    readouts=found.readouts,
    sweep=found.sweep,
    chosen=found.chosen,
    clairvoyant=found.clairvoyant,
    calibration=found.calibration,
    segments=found.segments,
    speed=speed,
    provenance=provenance(command or again(folder), config),
    routers=found.routers,
    gates=found.gates,
  )
  if processes.is_first():
    _write_results(config, folder, found, results)


def _write_results(
  config: Config, folder: pathlib.Path, found: Evaluation, results: Results
) -> None:
  """All files of an evaluation at once, and where they are."""
  windows = json.dumps(found.windows.to_json(), allow_nan=False)
  write_together(
    {
      folder / windows_lib.FILE: windows,
      folder / passage_lib.FILE: folders.dumps(found.passage.to_json()),
      folder / results_lib.FILE: folders.dumps(results.to_json()),
      folder / folders.CONFIG: folders.dumps(folders.as_json(config)),
    }
  )
  print(f'Results: {(folder / results_lib.FILE).resolve()}')
  if results.chosen.guarantee is not None:
    promise, outcome = results.chosen.promise
    print(f'Promise: {promise}')
    print(f'Outcome: {outcome}')


def _evaluate_text(config: Config, folder: pathlib.Path, path: str) -> None:
  """Prints what the run does on another text, and keeps it beside."""
  trained = load_model(config, folder)
  run_specs = specs_of(config, trained.tokenizer)
  evaluated = (folder / results_lib.FILE).exists()
  point = chosen_point(folder, config) if evaluated else None
  with stage('evaluating'):
    found = texts.evaluate(run_specs, trained, point, path)
  print(found)
  if not processes.is_first():
    return
  place = folder / found.file
  place.parent.mkdir(exist_ok=True)
  write_atomic(place, folders.dumps(found.to_json()))
  print(f'Results: {place.resolve()}')


def _report(config: Config, folder: pathlib.Path) -> None:
  results = results_lib.load(folder / results_lib.FILE)
  folders.check_results(results, folder, config)
  with stage('drawing the page'):
    page = report.write_report(folder)
  print(f'Report: {page.resolve()}')
