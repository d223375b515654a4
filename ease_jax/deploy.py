"""A trained run at work: its model, continuations of texts, its export."""

import dataclasses
import os
import pathlib
import sys
from collections.abc import Iterator

import jax

from ease_jax import decode, fields, specs
from ease_jax import workdir as folders
from ease_jax.checks import ConfigError, need
from ease_jax.config import Config
from ease_jax.core.policies import OperatingPoint
from ease_jax.data import load_tokenizer, tokenizers
from ease_jax.data.task import Task
from ease_jax.data.task import load as load_task
from ease_jax.data.tokenizers import Tokenizer
from ease_jax.decode import text
from ease_jax.decode.text import Trained
from ease_jax.evaluate import clock
from ease_jax.evaluate import results as results_lib
from ease_jax.files import write_atomic
from ease_jax.model import Body
from ease_jax.specs import Specs
from ease_jax.train import checkpoint, saved
from ease_jax.train.saved import Best
from ease_jax.train.update import abstract_state

EXPORTED = 'decoder.jax'

Path = str | os.PathLike[str]


def check_jax() -> None:
  """Raises ConfigError if JAX is set to something that no run works with."""
  promotion: str = jax.config.jax_numpy_dtype_promotion  # pyright: ignore
  need(
    promotion == 'standard',
    f'jax_numpy_dtype_promotion={promotion} is set, which optax does not work '
    "with; unset it, or set it to 'standard'",
  )
  wide: bool = jax.config.jax_enable_x64  # pyright: ignore
  need(
    not wide,
    'jax_enable_x64 is set, and a run is of 32 bits; unset JAX_ENABLE_X64',
  )
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:  # the latter says nothing
    platforms: str = jax.config.jax_platforms  # pyright: ignore
    reason = str(error).partition('\n')[0] or 'unknown to it'
    raise ConfigError(
      f'JAX finds no device for JAX_PLATFORMS={platforms} ({reason}); unset '
      'it, or install what JAX needs for that'
    ) from None


def specs_of(config: Config, tokenizer: Tokenizer) -> Specs:
  """The specs of a run that has this tokenizer."""
  return specs.from_config(config, tokenizer.vocab_size, tokenizer.eos_id)


def restore_best(
  config: Config, run_specs: Specs, folder: pathlib.Path, model: Body
) -> Best:
  """The best checkpoint of a run.

  Raises:
    ConfigError: there is none, or it is not of this model and config.
  """
  abstract = abstract_state(model, run_specs.optimizer)
  return checkpoint.restore_best(folder, abstract, fields.of_training(config))


def load_model(config: Config, workdir: Path) -> Trained:
  """Model, parameters and tokenizer of the best checkpoint of a run.

  Raises:
    ConfigError: there is none, or they do not belong together, or JAX is set
      to something that no run works with.
  """
  check_jax()
  folder = folders.locate(workdir)
  path = folder / tokenizers.FILE
  need(path.exists(), f'{path} is missing; run --mode=train first')
  tokenizer = load_tokenizer(path)
  run_specs = specs_of(config, tokenizer)
  model = run_specs.body
  best = restore_best(config, run_specs, folder, model)

  for name, here in tokenizers.vocabulary(tokenizer).items():
    there = (best.facts or {}).get(name, here)
    need(
      there == here,
      f'{path} is not the one that the run was trained with ({name}={there} '
      f'there, {here} here); restore it from a copy',
    )
  return Trained(model, best.state.params, tokenizer)


def source_of(run_specs: Specs) -> pathlib.Path | None:
  """The run that `train.init_from` names; None where it names none.

  Raises:
    ConfigError: there is no run.
  """
  name = run_specs.train.init_from
  return trained_run(name, 'train.init_from') if name else None


def trained_run(name: str, field: str) -> pathlib.Path:
  """The directory of another run, which a field of the config names.

  Raises:
    ConfigError: there is no run, or it was not trained.
  """
  folder = folders.locate(name, field)
  need(
    saved.has_steps(folder),
    f'{field}={name} has no checkpoint; give the directory of a run that was '
    'trained',
  )
  return folder


def check_tokens(run: str, tokenizer: Tokenizer, task: Task) -> None:
  """Refuses another run whose tokens are not those of a task.

  Args:
    run: the field that names it, and what it says.
    tokenizer: of that run.
    task: of this one.

  Raises:
    ConfigError: says what differs.
  """
  facts = task.to_json() | {'vocab_size': task.vocab_size}
  for name, there in tokenizers.vocabulary(tokenizer).items():
    here = facts.get(name, there)
    need(
      there == here,
      f'{run} was trained with {name}={there}, and data.* give {here}; use its '
      'data.tokenizer',
    )


def chosen_point(
  workdir: Path, config: Config | None = None
) -> OperatingPoint | None:
  """The operating point of a run; None where it chose no exits.

  Args:
    workdir: of the run.
    config: of the run, as it is asked for; None = as the directory has it.

  Raises:
    ConfigError: the run was not evaluated, or not as it is now.
  """
  folder = folders.locate(workdir)
  path = folder / results_lib.FILE
  need(
    path.exists(),
    f'{path} is missing: it holds the exit thresholds; run --mode=evaluate '
    'first',
  )
  results = results_lib.load(path)
  folders.check_results(results, folder, config)
  return results.chosen.point


def generate(config: Config, folder: pathlib.Path, prompt: str) -> None:
  """Prints a prompt and its continuation; on stderr, what it took."""
  need_text(prompt, '--prompt')
  trained = load_model(config, folder)
  run_specs = specs_of(config, trained.tokenizer)
  options = _options(run_specs, trained)

  if run_specs.generate.method == 'speculative':
    # Before drafts are timed for nothing.
    tokens = tokenizers.prompt_tokens(trained.tokenizer, prompt)
    decode.check_prompts(trained.model, [tokens], options)
    draft = _draft(run_specs, folder, trained, options)
    if draft is not None:
      _print(text.speculative_text(trained, prompt, draft, options, say=_say))
      return

  point = None
  if run_specs.generate.method == 'exits':
    point = chosen_point(folder, config)
  color = sys.stdout is not None and sys.stdout.isatty()  # None = closed
  _print(text.exit_text(trained, prompt, point, options, color=color, say=_say))


def need_text(prompt: object, name: str) -> None:
  """Raises ConfigError unless a prompt is text, whole characters of it."""
  need(
    isinstance(prompt, str),
    f'{name} is {type(prompt).__name__}, not text; give a str',
  )
  try:
    str(prompt).encode('utf-8')
  except UnicodeEncodeError as error:
    raise ConfigError(
      f'{name} is not UTF-8 at character {error.start}; give it in UTF-8'
    ) from None


def _options(run_specs: Specs, trained: Trained) -> decode.Options:
  return run_specs.generate.options(
    context=run_specs.data.seq_len, eos_id=trained.tokenizer.eos_id
  )


def _print(pieces: Iterator[str]) -> None:
  for piece in pieces:
    print(piece, end='', flush=True)


def _say(words: str) -> None:
  print(words, file=sys.stderr, flush=True)


def _draft(
  run_specs: Specs,
  folder: pathlib.Path,
  trained: Trained,
  options: decode.Options,
) -> decode.Way | None:
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
  _say(f'[timing {len(drafts)} ways to draft]')
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
  _say(
    f'[generate.draft={way} is the fastest of {len(drafts)}: '
    f'{seconds[None] / seconds[draft]:.2f} times as fast as plain decoding on '
    f'{len(prompts)} prompts of {run_specs.sweep.select_split}; {used}]'
  )
  return best


def export(config: Config, folder: pathlib.Path) -> None:
  """Writes the decoder at the run's operating point, for one row."""
  method = config.generate.method
  if method == 'speculative':
    raise ConfigError(
      f'generate.method={method!r} can not be exported; use exits or full'
    )
  point = chosen_point(folder, config) if method == 'exits' else None
  trained = load_model(config, folder)
  run_specs = specs_of(config, trained.tokenizer)
  path = folder / EXPORTED
  content = decode.exported(
    trained.model,
    trained.params,
    point,
    options=_options(run_specs, trained),
  )
  write_atomic(path, content)
  print(f'Decoder: {path.resolve()}')
