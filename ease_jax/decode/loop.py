"""Generation: prompts in, tokens out, each stopping where it is sure."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ease_jax.checks import need
from ease_jax.core.policies import ExitRule, OperatingPoint, thresholds
from ease_jax.decode import cache as caches
from ease_jax.decode import deferred, heads
from ease_jax.decode import step as steps
from ease_jax.decode.cache import Cache
from ease_jax.decode.options import Options
from ease_jax.model import Body, Params

PROMPT_STEP = 32  # prompts are padded to a multiple, each compiled once

Prompts = Sequence[Sequence[int]]
Variables = Any  # of a Linen module: a dict with `params`
Array = jax.Array | np.ndarray


class Generated(NamedTuple):
  """A continued prompt, and where each new token stopped."""

  tokens: np.ndarray  # [prompt + new] int32
  exits: np.ndarray  # [new] int32, readout


class Counts(NamedTuple):
  """What the loop did, as the programs themselves counted it."""

  steps: int
  layers_run: int
  heads_run: int
  fills_run: int  # cells of which only keys and values were made


def generate(
  model: Body,
  variables: Variables,
  prompts: Prompts,
  point: OperatingPoint | None = None,
  *,
  options: Options,
) -> tuple[list[Generated], Counts]:
  """Continues prompts; each new token runs the cells it needs.

    point = OperatingPoint('max_prob', 'copy_state', 0.9)
    texts, counts = decode.generate(
      model, {'params': params}, [[72, 101], [84]], point,
      options=decode.Options(max_new_tokens=20, context=128))
    texts[0].tokens, texts[0].exits

  Args:
    model: a body.
    variables: with its `params`.
    prompts: token ids, at least one each; their lengths may differ.
    point: signal, threshold(s) and K/V policy; None compiles the exits out.
    options: the rest.

  Raises:
    ConfigError: a prompt is empty or fills the context.
  """
  blocks = list(_blocks(model, variables, prompts, point, options))
  history: steps.Stepped = jax.tree.map(
    lambda *parts: np.concatenate(parts), *blocks
  )
  texts = []

  for b, prompt in enumerate(prompts):
    live_N = history.live_B[:, b]
    new = history.token_B[live_N, b]
    tokens = np.concatenate([np.asarray(prompt, np.int32), new])
    texts.append(Generated(tokens, np.asarray(history.exit_B[live_N, b])))

  counts = Counts(
    len(history.live_B),
    int(history.layers_run.sum()),
    int(history.heads_run.sum()),
    int(history.fills_run.sum()),
  )
  return texts, counts


def stream(
  model: Body,
  variables: Variables,
  prompts: Prompts,
  point: OperatingPoint | None = None,
  *,
  options: Options,
) -> Iterator[steps.Stepped]:
  """One `Stepped` of [B] arrays for each new token of the longest row.

  `generate` collects them and documents the arguments.
  """
  for block in _blocks(model, variables, prompts, point, options):
    for i in range(len(block.live_B)):
      yield jax.tree.map(lambda x, i=i: x[i], block)


def _blocks(
  model: Body,
  variables: Variables,
  prompts: Prompts,
  point: OperatingPoint | None,
  options: Options,
) -> Iterator[steps.Stepped]:
  """The steps of each program, [N, ...]."""
  rule = rule_of(point)
  heads.check(model, rule)
  need(
    'params' in variables,
    "the variables have no 'params'; give {'params': params}",
  )
  params = variables['params']
  cache, slot = prefilled(model, params, prompts, point, options)

  length_B = np.asarray([len(prompt) for prompt in prompts], np.int32)
  last_B = np.asarray([prompt[-1] for prompt in prompts], np.int32)
  seed = np.uint32(options.seed % 2**32)
  rows = start(model, point, last_B, length_B - 1, end(length_B, options), seed)
  threshold_K = thresholds(point, model.grid.num_readouts)
  done = False

  while not done:
    if slot + options.chunk > cache.capacity:
      cache = caches.grow(cache, slot + options.chunk)
    history, rows, cache = steps.many_steps(
      params,
      cache,
      rows,
      np.int32(slot),
      threshold_K,
      eos(options),
      num=options.chunk,
      model=model,
      rule=rule,
      sampling=options.sampling,
    )
    slot += options.chunk
    history, done_B = jax.device_get((history, rows.done_B))
    done = done_B.all()
    happened_N = history.live_B.any(1)
    yield jax.tree.map(lambda x, keep=happened_N: x[keep], history)


def rule_of(point: OperatingPoint | None) -> ExitRule | None:
  """The part of a point that programs are compiled for; None = exits off."""
  return None if point is None else point.rule


def start(
  model: Body,
  point: OperatingPoint | None,
  token_B: Array,
  position_B: Array,
  end_B: Array,
  seed: Array | int | np.integer,
) -> steps.Rows:
  """Rows before their first step.

  Args:
    model: a body.
    point: where tokens exit.
    token_B: the last token of each row.
    position_B: its position.
    end_B: the first position at which the row has no token.
    seed: of the sampling.
  """
  return _start(
    token_B, position_B, end_B, seed, model=model, behind=defers(point)
  )


@functools.partial(jax.jit, static_argnames=('model', 'behind'))
def _start(
  token_B: jax.Array,
  position_B: jax.Array,
  end_B: jax.Array,
  seed: jax.Array,
  *,
  model: Body,
  behind: bool,
) -> steps.Rows:
  num = len(token_B)
  return steps.Rows(
    token_B,
    position_B,
    end_B,
    position_B + 1 >= end_B,
    jax.random.split(jax.random.key(seed), num),
    deferred.empty_window(model, num) if behind else None,
  )


def defers(point: OperatingPoint | None) -> bool:
  """Whether tokens may stay behind and be made up later."""
  return point is not None and point.rule.policy.runs_on


def least_slot(point: OperatingPoint | None) -> int:
  """The first slot that a step may write to; a window lies before it."""
  return deferred.WINDOW if defers(point) else 0


def end(length_B: Any, options: Options) -> Any:
  """The first position after the last token that each row may have."""
  return (length_B + options.max_new_tokens).clip(max=options.context)


def eos(options: Options) -> np.int32:
  """The token that ends a row; -1 = none."""
  return np.int32(-1 if options.eos_id is None else options.eos_id)


def prefilled(
  model: Body,
  params: Params,
  prompts: Prompts,
  point: OperatingPoint | None,
  options: Options,
) -> tuple[Cache, int]:
  """A cache of all prompt tokens but the last, and its next free slot.

  Raises:
    ConfigError: as `check_prompts` does.
  """
  check_prompts(model, prompts, options)
  length_B = np.asarray([len(prompt) - 1 for prompt in prompts], np.int32)
  width = -(-length_B.max() // PROMPT_STEP) * PROMPT_STEP
  width = max(width, least_slot(point))

  token_BxT = np.zeros((len(prompts), width), np.int32)
  for b, prompt in enumerate(prompts):
    token_BxT[b, width - length_B[b] :] = prompt[:-1]

  cache = steps.prefill(
    params,
    token_BxT,
    length_B,
    thresholds(point, model.grid.num_readouts),
    slots=width + options.chunk,
    model=model,
    rule=rule_of(point) if options.prefill == 'exits' else None,
  )
  return cache, width


def check_prompts(model: Body, prompts: Prompts, options: Options) -> None:
  """Raises ConfigError if there is nothing to continue, or no room to."""
  need(
    not isinstance(prompts, str) and len(prompts) > 0,
    'no prompts; give a list of at least one',
  )
  vocab_size = model.cfg.vocab_size

  for prompt in prompts:
    need(
      not isinstance(prompt, (str, int)),
      f'the prompt {prompt!r} is no list of token ids; encode it with the '
      'tokenizer of the run, or use ease_jax.load_run(DIR).generate, which '
      'takes texts',
    )
    need(
      0 < len(prompt) < options.context,
      f'--prompt has {len(prompt)} tokens; it must have 1 to '
      f'{options.context - 1} (data.seq_len={options.context}); change its '
      'length',
    )
    for token in prompt:
      need(
        0 <= token < vocab_size,
        f'--prompt has the token {token}; the vocabulary has 0 to '
        f'{vocab_size - 1}; use the tokenizer of the run',
      )
