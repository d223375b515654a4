"""One experiment from config to report: `run(config, workdir)`."""

import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from typing import Any

import jax

import ease_jax
from ease_jax import data, decode, report
from ease_jax import model as model_lib
from ease_jax.config import ConfigError, model_config
from ease_jax.evaluate import clock, results
from ease_jax.train import checkpoint, update
from ease_jax.train import loop as train_loop
from ease_jax.train.optimizer import OptimizerSpec
from ease_jax.train.writers import write_atomic
from ease_jax.validation import validate

MODES = ('all', 'train', 'evaluate', 'report', 'generate', 'export')
EXPORTED = 'decoder.jax'
# What a later command in the same workdir may change: it has no influence on
# the parameters.
FREE_FIELDS = (
  'evaluate.batch_size',
  'evaluate.select_split',
  'evaluate.report_split',
  'evaluate.segments',
  'evaluate.speed_tokens',
  'exit.',
  'generate.',
  'train.log_every',
  'train.tensorboard',
  'train.profile',
)
PACKAGES = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'numpy')


def run(
  config: Any,
  workdir: str | os.PathLike[str],
  mode: str = 'all',
  prompt: str | None = None,
) -> None:
  """Runs an experiment, or one part of it, in a working directory.

  Args:
    config: a run's config.
    workdir: receives the files of the run; created when missing.
    mode: one of MODES; all = train, evaluate, report.
    prompt: text to continue, for mode generate.

  Raises:
    ConfigError: something the caller must change; one line with the fix.
    TrainingDiverged, Preempted: see `train.train`.
  """
  if mode not in MODES:
    raise ConfigError(f'--mode={mode} is unknown; use one of {MODES}')
  if mode == 'generate' and prompt is None:
    raise ConfigError('--mode=generate needs --prompt=TEXT')
  if not os.fspath(workdir):
    raise ConfigError('--workdir is empty; give a directory')
  validate(config)
  workdir = pathlib.Path(workdir)
  check_config(config, workdir)
  if mode == 'report':
    return _report(workdir)
  if mode == 'generate':
    return _generate(config, workdir, prompt or '')
  if mode == 'export':
    return _export(config, workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  corpus = data.load(config, workdir)
  model = model_lib.build(model_config(config, corpus.tokenizer.vocab_size))
  # After the data was found: a wrong path must not bind the workdir.
  write_atomic(workdir / 'config.json', _dumps(as_json(config)))
  if mode in ('all', 'train'):
    train_loop.train(config, str(workdir), model, corpus)
  if mode in ('all', 'evaluate'):
    _evaluate(config, workdir, model, corpus)
  if mode == 'all':
    _report(workdir)


def as_json(config: Any) -> Any:
  """A config as plain JSON; infinite thresholds become strings."""

  def plain(value):
    if isinstance(value, dict):
      return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
      return [plain(v) for v in value]
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if finite else str(value)

  return plain(config.to_dict())


def check_config(config: Any, workdir: pathlib.Path) -> None:
  """Refuses a workdir that another config made; writes nothing.

  Raises:
    ConfigError: names every field that differs.
  """
  path = workdir / 'config.json'
  if workdir.exists() and not workdir.is_dir():
    raise ConfigError(f'--workdir={workdir} is a file; choose a directory')
  if not path.exists():
    if (workdir / checkpoint.FOLDER).is_dir():
      raise ConfigError(
        f'{workdir} has checkpoints but no config.json, so that nobody can '
        'tell whose they are; choose another --workdir'
      )
    return
  try:
    there = _flat(json.loads(path.read_text(encoding='utf-8')))
  except ValueError:
    raise ConfigError(
      f'{path} is not JSON; restore it or choose another --workdir'
    ) from None
  here = _flat(as_json(config))
  missing = 'missing'
  differing = [
    f'{name}={there.get(name, missing)} there, {here.get(name, missing)} here'
    for name in sorted(there.keys() | here.keys())
    if there.get(name, missing) != here.get(name, missing)
    and not name.startswith(FREE_FIELDS)
  ]
  if differing:
    raise ConfigError(
      f'{workdir} was made by another config: {"; ".join(differing)}; '
      'choose another --workdir or the same config'
    )


def _flat(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'a': {'b': 1}} -> {'a.b': 1}."""
  result = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      result |= _flat(value, f'{prefix}{name}.')
    else:
      result[prefix + name] = value
  return result


def _dumps(tree: Any) -> str:
  return json.dumps(tree, indent=2, allow_nan=False) + '\n'


def _restore_best(config: Any, workdir: pathlib.Path, model: Any) -> Any:
  abstract = update.abstract_state(model, OptimizerSpec.from_config(config))
  return checkpoint.restore_best(workdir, abstract)


def _evaluate(
  config: Any, workdir: pathlib.Path, model: Any, corpus: Any
) -> None:
  """Writes results.json and passage.json from the best checkpoint."""
  best = _restore_best(config, workdir, model)
  params = best.state.params
  found, passage = results.evaluate_run(config, model, params, corpus)
  found['speed'] = clock.measure(config, model, params, corpus, found)
  cfg = model.cfg
  tokens = {f'{k}_tokens': len(v) for k, v in corpus.splits.items()}
  found = {
    'seed': config.seed,
    'model': {
      'params': sum(x.size for x in jax.tree.leaves(params)),
      'body': cfg.body,
      'segments': cfg.segments,
      'layers': cfg.num_layers,
      'vocab_size': cfg.vocab_size,
    },
    'data': {
      'source': corpus.source,
      'tokenizer': corpus.tokenizer.name,
      'sha256': corpus.sha256,
      **tokens,
    },
    'train': train_loop.summary(config, model, best.newest_step, best.host),
    **found,
    'provenance': provenance(),
  }
  write_atomic(workdir / 'passage.json', _dumps(passage))
  write_atomic(workdir / 'results.json', _dumps(found))


def provenance() -> dict[str, Any]:
  """What it takes to make these numbers again."""
  command = ['python', '-m', 'ease_jax.main', *sys.argv[1:]]
  return {
    'command': shlex.join(command),
    'versions': {
      'python': platform.python_version(),
      **{name: importlib.metadata.version(name) for name in PACKAGES},
      'ease_jax': ease_jax.__version__,
    },
    'commit': _commit(),
    'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    'platform': f'{platform.platform()}, {jax.devices()[0].device_kind}',
  }


def _commit() -> str:
  """Git commit of this source, `-dirty` when changed; '' outside of git."""
  here = pathlib.Path(__file__)

  def git(*args):
    return subprocess.run(
      ['git', '-C', str(here.parent), *args],
      capture_output=True,
      check=True,
      text=True,
    ).stdout.strip()

  try:
    # An installed copy may lie below somebody else's repository.
    git('ls-files', '--error-unmatch', here.name)
    return git('describe', '--always', '--dirty', '--abbrev=12', '--exclude=*')
  except (OSError, subprocess.CalledProcessError):
    return ''


def _report(workdir: pathlib.Path) -> None:
  try:
    page = report.write_report(workdir)
  except (FileNotFoundError, ValueError) as error:
    raise ConfigError(str(error)) from error
  print(f'Report: {page.resolve()}')


def _generate(config: Any, workdir: pathlib.Path, prompt: str) -> None:
  model, _, tokenizer = loaded = load_model(config, workdir)
  draft = None
  if config.generate.method == 'speculative':
    decode.check_prompts(  # before drafts are timed for nothing
      model,
      [tokenizer.encode(prompt)],
      decode.options_from(config, tokenizer.eos_id),
    )
    draft = _draft(config, workdir, *loaded)
  if draft is not None:
    return decode.speculative_text(config, *loaded, prompt, draft)
  point = None
  if config.generate.method == 'exits':
    point = decode.chosen_point(workdir)
  decode.exit_text(config, *loaded, prompt, point)


def _draft(
  config: Any, workdir: pathlib.Path, model: Any, params: Any, tokenizer: Any
) -> decode.Draft | None:
  """The given one, or what the clock prefers; None = plain decoding."""
  if config.generate.draft:
    return decode.Draft(*config.generate.draft)
  drafts = decode.candidates(model.cfg)
  prompts = clock.calibration_prompts(config, data.load(config, workdir))
  options = decode.options_from(config, tokenizer.eos_id)
  # One program's worth of tokens, so that each draft compiles one program.
  options = dataclasses.replace(
    options, max_new_tokens=min(options.max_new_tokens, options.chunk)
  )
  print(f'[timing {len(drafts)} ways to draft]', flush=True)
  best, seconds = clock.fastest_draft(
    model, {'params': params}, prompts, drafts, options=options
  )
  draft = min(drafts, key=lambda d: seconds[d])
  readout, length, threshold = draft.readout, draft.length, draft.threshold
  print(
    f'[generate.draft={(readout, length, threshold)} is the fastest of '
    f'{len(drafts)}: {seconds[None] / seconds[draft]:.2f} times as fast as '
    f'plain decoding on {len(prompts)} prompts of '
    f'{config.evaluate.select_split}; '
    f'{"used" if best else "plain decoding is used"}]'
  )
  return best


def _export(config: Any, workdir: pathlib.Path) -> None:
  """Writes the decoder at the run's operating point, for one row."""
  method = config.generate.method
  if method == 'speculative':
    raise ConfigError(
      f'generate.method={method!r} can not be exported; use exits or full'
    )
  point = decode.chosen_point(workdir) if method == 'exits' else None
  model, params, tokenizer = load_model(config, workdir)
  path = workdir / EXPORTED
  write_atomic(
    path,
    decode.exported(
      model,
      params,
      point,
      options=decode.options_from(config, tokenizer.eos_id),
    ),
  )
  print(f'Decoder: {path.resolve()}')


def load_model(
  config: Any, workdir: str | os.PathLike[str]
) -> tuple[Any, Any, Any]:
  """(model, parameters, tokenizer) of the best checkpoint of a run.

  Raises:
    ConfigError: there is none.
  """
  workdir = pathlib.Path(workdir)
  path = workdir / 'tokenizer.json'
  if not path.exists():
    raise ConfigError(f'{path} is missing; run --mode=train first')
  tokenizer = data.load_tokenizer(path)
  model = model_lib.build(model_config(config, tokenizer.vocab_size))
  best = _restore_best(config, workdir, model)
  return model, best.state.params, tokenizer
