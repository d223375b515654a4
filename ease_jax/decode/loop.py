"""Generation: prompts in, tokens out, each stopping where it is sure."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ease_jax.config import ConfigError
from ease_jax.decode import cache as caches
from ease_jax.decode import deferred
from ease_jax.decode import step as steps
from ease_jax.decode.sampling import Sampling
from ease_jax.evaluate.sweep import Point
from ease_jax.model.exits import CONTROL, ExitSpec

PREFILLS = ('exits', 'full')
OFF = Point(ExitSpec(), None)
PROMPT_STEP = 32  # prompts are padded to a multiple, each compiled once


@dataclasses.dataclass(frozen=True)
class Options:
  """How to generate.

  Attributes:
    max_new_tokens: a row stops earlier at `eos_id` or where its context ends.
    context: most positions the model was trained on (C).
    sampling: how tokens are drawn.
    eos_id: token that ends a text, or None.
    seed: of the sampling.
    prefill: what prompt tokens do: exits, they stop by the same rule as
      generated ones, as the exit-consistent evaluation has it; full, they go
      through all layers.
    chunk: steps per program. Fewer come sooner; more cost less, as a call
      takes about as long as a token of a small model.
  """

  max_new_tokens: int
  context: int
  sampling: Sampling = Sampling()
  eos_id: int | None = None
  seed: int = 0
  prefill: str = 'exits'
  chunk: int = 32

  def __post_init__(self):
    if self.prefill not in PREFILLS:
      raise ConfigError(
        f'generate.prefill={self.prefill!r} is unknown; use one of {PREFILLS}'
      )
    if self.max_new_tokens < 1:
      raise ConfigError(
        f'generate.max_new_tokens={self.max_new_tokens} must be at least 1'
      )
    if self.chunk < 1:
      raise ConfigError(f'chunk={self.chunk} must be at least 1')


class Generated(NamedTuple):
  """A continued prompt, and where each new token stopped."""

  tokens: np.ndarray  # [prompt + new] int32
  exits: np.ndarray  # [new] int32, readout


class Counts(NamedTuple):
  """What the loop did, as the programs themselves counted it."""

  steps: int
  layers_run: int
  heads_run: int
  fills_run: int  # layers of which only keys and values were made


def generate(
  model: Any,
  variables: Any,
  prompts: Sequence[Sequence[int]],
  exit: Point | None = None,
  *,
  options: Options,
) -> tuple[list[Generated], Counts]:
  """Continues prompts; each new token runs the layers it needs.

    point = Point(ExitSpec('max_prob', 'copy_state'), 0.9)
    texts, counts = decode.generate(
        model, {'params': params}, [[72, 101], [84]], exit=point,
        options=decode.Options(max_new_tokens=20, context=128))
    texts[0].tokens, texts[0].exits

  Args:
    model: a body.
    variables: with its `params`.
    prompts: token ids, at least one each; their lengths may differ.
    exit: signal, threshold(s) and K/V policy; None compiles the exits out.
    options: the rest.

  Raises:
    ConfigError: a prompt is empty or fills the context.
  """
  found = jax.tree.map(
    lambda *xs: np.concatenate(xs),
    *_blocks(model, variables, prompts, exit, options),
  )
  texts = []
  for b, prompt in enumerate(prompts):
    live_N = found.live_B[:, b]
    new = found.token_B[live_N, b]
    texts.append(
      Generated(
        np.concatenate([np.asarray(prompt, np.int32), new]),
        found.exit_B[live_N, b],
      )
    )
  return texts, Counts(
    len(found.live_B),
    int(found.layers_run.sum()),
    int(found.heads_run.sum()),
    int(found.fills_run.sum()),
  )


def stream(
  model: Any,
  variables: Any,
  prompts: Sequence[Sequence[int]],
  exit: Point | None = None,
  *,
  options: Options,
) -> Iterator[steps.Stepped]:
  """One `Stepped` of [B] arrays for each new token of the longest row.

  `generate`, which see, collects them.
  """
  for block in _blocks(model, variables, prompts, exit, options):
    for i in range(len(block.live_B)):
      yield jax.tree.map(lambda x, i=i: x[i], block)


def _blocks(
  model, variables, prompts, exit, options
) -> Iterator[steps.Stepped]:
  """The steps of each program, [N, ...]."""
  check_exit(model, exit)
  params, spec = variables['params'], exit.spec if exit else None
  cache, slot = prefilled(model, params, prompts, exit, options)
  length_B = np.asarray([len(p) for p in prompts], np.int32)
  rows = start(
    model,
    exit,
    np.asarray([p[-1] for p in prompts], np.int32),
    length_B - 1,
    end(length_B, options),
    np.uint32(options.seed % 2**32),
  )
  threshold_K, eos_id = thresholds(model, exit), eos(options)
  done = False
  while not done:
    if slot + options.chunk > cache.capacity:
      cache = caches.grow(cache, slot + options.chunk)
    out, rows, cache = steps.many_steps(
      params,
      cache,
      rows,
      np.int32(slot),
      threshold_K,
      eos_id,
      num=options.chunk,
      model=model,
      spec=spec,
      sampling=options.sampling,
    )
    slot += options.chunk
    out, done_B = jax.device_get((out, rows.done_B))
    done = done_B.all()
    happened_N = out.live_B.any(1)
    yield jax.tree.map(lambda x, happened_N=happened_N: x[happened_N], out)


def start(
  model: Any,
  exit: Point | None,
  token_B: Any,
  position_B: Any,
  end_B: Any,
  seed: Any,
) -> steps.Rows:
  """Rows that have a last token each, and a way to go; see `steps.Rows`."""
  return _start(
    token_B, position_B, end_B, seed, model=model, behind=defers(model, exit)
  )


@functools.partial(jax.jit, static_argnames=('model', 'behind'))
def _start(token_B, position_B, end_B, seed, *, model, behind):
  num = len(token_B)
  return steps.Rows(
    token_B,
    position_B,
    end_B,
    position_B + 1 >= end_B,
    jax.random.split(jax.random.key(seed), num),
    deferred.empty_window(model, num) if behind else None,
  )


def least_slot(model: Any, exit: Point | None) -> int:
  """The first slot that a step may write to; a window lies before it."""
  return deferred.WINDOW if defers(model, exit) else 0


def thresholds(model: Any, exit: Point | None) -> np.ndarray:
  """One for each readout, [K] float32."""
  return (exit or OFF).threshold_K(len(model.cfg.cells))


def end(length_B: Any, options: Options) -> Any:
  """The first position after the last token that each row may have."""
  return (length_B + options.max_new_tokens).clip(max=options.context)


def eos(options: Options) -> np.int32:
  """The token that ends a row; -1 = none."""
  return np.int32(-1 if options.eos_id is None else options.eos_id)


def prefilled(
  model: Any,
  params: Any,
  prompts: Sequence[Sequence[int]],
  exit: Point | None,
  options: Options,
) -> tuple[caches.Cache, int]:
  """A cache of all prompt tokens but the last, and its next free slot.

  Raises:
    ConfigError: see `check_prompts`.
  """
  check_prompts(model, prompts, options)
  length_B = np.asarray([len(p) - 1 for p in prompts], np.int32)
  width = -(-length_B.max() // PROMPT_STEP) * PROMPT_STEP
  width = max(width, least_slot(model, exit))
  token_BxT = np.zeros((len(prompts), width), np.int32)
  for b, prompt in enumerate(prompts):
    token_BxT[b, width - length_B[b] :] = prompt[:-1]
  cache = steps.prefill(
    params,
    token_BxT,
    length_B,
    thresholds(model, exit),
    slots=width + options.chunk,
    model=model,
    spec=exit.spec if exit and options.prefill == 'exits' else None,
  )
  return cache, width


def check_prompts(
  model: Any, prompts: Sequence[Sequence[int]], options: Options
) -> None:
  """Raises ConfigError if there is nothing to continue, or no room to."""
  vocab_size = model.cfg.vocab_size
  for prompt in prompts:
    if not 0 < len(prompt) < options.context:
      raise ConfigError(
        f'--prompt has {len(prompt)} tokens; it must have 1 to '
        f'{options.context - 1} (data.seq_len={options.context}); change its '
        'length'
      )
    for token in prompt:
      if not 0 <= token < vocab_size:
        raise ConfigError(
          f'--prompt has the token {token}; the vocabulary has 0 to '
          f'{vocab_size - 1}; use the tokenizer of the run'
        )
  if len(prompts) == 0:
    raise ConfigError('no prompts; give at least one')


def check_exit(model: Any, exit: Point | None) -> None:
  """Raises ConfigError if a model cannot be decoded with such exits."""
  if exit is None:
    return
  if exit.spec.policy == CONTROL:
    raise ConfigError(
      f'K/V policy {CONTROL!r} is a control of the evaluation; decode with '
      'another one'
    )
  if exit.spec.signal == 'q_halt' and model.cfg.body != 'hrm':
    raise ConfigError(
      f"exit signal 'q_halt' is learned by model.body=hrm alone; this is "
      f'{model.cfg.body}; use another signal'
    )


def defers(model: Any, exit: Point | None) -> bool:
  """Whether tokens may stay behind; HRM's can not be gone on from."""
  recompute = exit is not None and exit.spec.policy == 'recompute'
  return recompute and model.cfg.body != 'hrm'
