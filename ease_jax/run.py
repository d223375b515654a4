"""One run from config to report: `run(config, workdir)`."""

import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Iterator

from ease_jax import decode, report, specs
from ease_jax import model as model_lib
from ease_jax import workdir as folders
from ease_jax.checks import ConfigError, need
from ease_jax.config import Config
from ease_jax.core.policies import UNITS, OperatingPoint
from ease_jax.core.spec import CAUSAL
from ease_jax.data import load_tokenizer
from ease_jax.data.task import Task
from ease_jax.data.task import load as load_task
from ease_jax.decode import text
from ease_jax.decode.text import Trained
from ease_jax.evaluate import clock, evaluation
from ease_jax.evaluate import passage as passage_lib
from ease_jax.evaluate import results as results_lib
from ease_jax.evaluate import windows as windows_lib
from ease_jax.evaluate.facts import DataFacts, TrainFacts
from ease_jax.evaluate.results import Results
from ease_jax.model import Body
from ease_jax.provenance import provenance
from ease_jax.specs import Specs
from ease_jax.train import checkpoint, loop
from ease_jax.train.checkpoint import Best
from ease_jax.train.update import abstract_state
from ease_jax.train.writers import write_atomic

MODES = ('all', 'train', 'evaluate', 'report', 'generate', 'export')
EXPORTED = 'decoder.jax'
TOKENIZER = 'tokenizer.json'

Path = str | os.PathLike[str]


def run(
  config: Config,
  workdir: Path,
  mode: str = 'all',
  prompt: str | None = None,
) -> None:
  """Makes a run, or one part of it, in a working directory.

  Args:
    config: of the run.
    workdir: receives the files of the run; created when missing.
    mode: one of MODES; all = train, evaluate, report.
    prompt: text to continue, for mode generate.

  Raises:
    ConfigError: something the caller must change; one line with the fix.
    TrainingDiverged, Preempted: as `train.loop.train` does.
  """
  need(mode in MODES, f'--mode={mode} is unknown; use one of {MODES}')
  need(
    mode != 'generate' or prompt is not None,
    '--mode=generate needs --prompt=TEXT',
  )
  need(bool(os.fspath(workdir)), '--workdir is empty; give a directory')
  checked = specs.from_config(config)
  folder = pathlib.Path(workdir)
  folders.check_config(config, folder)

  if mode == 'report':
    _report(folder)
  elif mode == 'generate':
    _generate(config, folder, prompt or '')
  elif mode == 'export':
    _export(config, folder)
  else:
    folder.mkdir(parents=True, exist_ok=True)
    task = load_task(checked.data, folder)
    checked = specs.from_config(config, task.vocab_size)
    # After the data was found: a wrong path must not bind the directory.
    folders.write_config(config, folder)
    if mode in ('all', 'train'):
      _train(checked, folder, task)
    if mode in ('all', 'evaluate'):
      _evaluate(checked, folder, task)
    if mode == 'all':
      _report(folder)


def _train(run_specs: Specs, folder: pathlib.Path, task: Task) -> None:
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
  )


def _restore_best(run_specs: Specs, folder: pathlib.Path, model: Body) -> Best:
  abstract = abstract_state(model, run_specs.optimizer)
  return checkpoint.restore_best(folder, abstract)


def _evaluate(run_specs: Specs, folder: pathlib.Path, task: Task) -> None:
  """Writes results.json and passage.json from the best checkpoint."""
  model = run_specs.body
  best = _restore_best(run_specs, folder, model)
  params = best.state.params
  found = evaluation.evaluate(run_specs.sweep, model, params, task)
  speed = None
  if (task.attention, task.unit) == (CAUSAL, UNITS[0]):
    speed = clock.measure(
      run_specs.sweep, model, params, task, found.chosen, found.sweep
    )

  train = loop.summary(
    best.newest_step,
    best.host,
    updates_per_step=run_specs.optimizer.updates_per_step,
    flops_per_token=run_specs.train_flops,
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
    provenance=provenance(),
  )
  windows = json.dumps(found.windows.to_json(), allow_nan=False)
  write_atomic(folder / windows_lib.FILE, windows)
  passage = folders.dumps(found.passage.to_json())
  write_atomic(folder / passage_lib.FILE, passage)
  write_atomic(folder / results_lib.FILE, folders.dumps(results.to_json()))


def _report(folder: pathlib.Path) -> None:
  page = report.write_report(folder)
  print(f'Report: {page.resolve()}')


def load_model(config: Config, workdir: Path) -> Trained:
  """Model, parameters and tokenizer of the best checkpoint of a run.

  Raises:
    ConfigError: there is none.
  """
  folder = pathlib.Path(workdir)
  path = folder / TOKENIZER
  need(path.exists(), f'{path} is missing; run --mode=train first')
  tokenizer = load_tokenizer(path)
  run_specs = specs.from_config(config, tokenizer.vocab_size)
  model = run_specs.body
  best = _restore_best(run_specs, folder, model)
  return Trained(model, best.state.params, tokenizer)


def chosen_point(workdir: Path) -> OperatingPoint | None:
  """The operating point of a run; None where it chose no exits.

  Raises:
    ConfigError: the run was not evaluated.
  """
  path = pathlib.Path(workdir) / results_lib.FILE
  need(
    path.exists(),
    f'{path} is missing: it holds the exit thresholds; run --mode=evaluate '
    'first',
  )
  return results_lib.load(path).chosen.point


def _generate(config: Config, folder: pathlib.Path, prompt: str) -> None:
  trained = load_model(config, folder)
  run_specs = specs.from_config(config, trained.tokenizer.vocab_size)
  options = _options(run_specs, trained)

  if run_specs.generate.method == 'speculative':
    # Before drafts are timed for nothing.
    tokens = trained.tokenizer.encode(prompt).tolist()
    decode.check_prompts(trained.model, [tokens], options)
    draft = _draft(run_specs, folder, trained, options)
    if draft is not None:
      _print(text.speculative_text(trained, prompt, draft, options))
      return

  point = None
  if run_specs.generate.method == 'exits':
    point = chosen_point(folder)
  color = sys.stdout.isatty()
  _print(text.exit_text(trained, prompt, point, options, color=color))


def _options(run_specs: Specs, trained: Trained) -> decode.Options:
  return run_specs.generate.options(
    context=run_specs.data.seq_len, eos_id=trained.tokenizer.eos_id
  )


def _print(pieces: Iterator[str]) -> None:
  for piece in pieces:
    print(piece, end='', flush=True)


def _draft(
  run_specs: Specs,
  folder: pathlib.Path,
  trained: Trained,
  options: decode.Options,
) -> decode.Draft | None:
  """The given one, or what the clock prefers; None = plain decoding."""
  if run_specs.generate.draft is not None:
    return run_specs.generate.draft

  drafts = decode.candidates(trained.model)
  task = load_task(run_specs.data, folder)
  prompts = clock.calibration_prompts(run_specs.sweep, task)
  # One program's worth of tokens, so that each draft compiles one program.
  short = dataclasses.replace(
    options, max_new_tokens=min(options.max_new_tokens, options.chunk)
  )
  print(f'[timing {len(drafts)} ways to draft]', flush=True)
  best, seconds = clock.fastest_draft(
    trained.model,
    {'params': trained.params},
    prompts,
    drafts,
    options=short,
  )
  draft = min(drafts, key=lambda d: seconds[d])
  way = draft.readout, draft.length, draft.threshold
  used = 'plain decoding is used' if best is None else 'used'
  print(
    f'[generate.draft={way} is the fastest of {len(drafts)}: '
    f'{seconds[None] / seconds[draft]:.2f} times as fast as plain decoding on '
    f'{len(prompts)} prompts of {run_specs.sweep.select_split}; {used}]'
  )
  return best


def _export(config: Config, folder: pathlib.Path) -> None:
  """Writes the decoder at the run's operating point, for one row."""
  method = config.generate.method
  if method == 'speculative':
    raise ConfigError(
      f'generate.method={method!r} can not be exported; use exits or full'
    )
  point = chosen_point(folder) if method == 'exits' else None
  trained = load_model(config, folder)
  run_specs = specs.from_config(config, trained.tokenizer.vocab_size)
  path = folder / EXPORTED
  content = decode.exported(
    trained.model,
    trained.params,
    point,
    options=_options(run_specs, trained),
  )
  write_atomic(path, content)
  print(f'Decoder: {path.resolve()}')


def body_of(config: Config, vocab_size: int) -> Body:
  """The model of a config, its parameters not yet made.

  Args:
    config: of a run.
    vocab_size: V.
  """
  return model_lib.build(specs.from_config(config, vocab_size).model)
