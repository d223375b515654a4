"""`--mode=generate`: a continuation printed as it comes."""

import json
import pathlib
import sys
from typing import Any

import numpy as np

from ease_jax.config import ConfigError
from ease_jax.decode import loop, speculation
from ease_jax.decode.sampling import Sampling
from ease_jax.evaluate import passes
from ease_jax.evaluate.sweep import Point, operating_point


def shaded(text: str, depth: float, color: bool) -> str:
  """`text` on a background that darkens with depth in [0, 1]."""
  if not color:
    return text
  shade = 255 - round(depth * 12)  # 256-colour greys: 255 light, 243 dark
  ink = 16 if shade > 247 else 231
  return f'\x1b[48;5;{shade}m\x1b[38;5;{ink}m{text}\x1b[0m'


class _Speech:
  """Text of tokens as they come; a character may be made of several."""

  def __init__(self, tokenizer: Any):
    self._tokenizer, self._waiting = tokenizer, []

  def __call__(self, token: int) -> str:
    """What can be said now that there is one more token."""
    if token == self._tokenizer.eos_id:
      return self.rest() + self._tokenizer.token_text(token)
    self._waiting.append(token)
    text = self._tokenizer.decode(self._waiting)
    if text.endswith('\ufffd'):  # half a character, or none at all
      return ''
    self._waiting = []
    return text

  def rest(self) -> str:
    """What is left, whole or not."""
    text, self._waiting = self._tokenizer.decode(self._waiting), []
    return text


def options_from(config: Any, eos_id: int | None) -> loop.Options:
  """What a config says about generation."""
  g = config.generate
  return loop.Options(
    max_new_tokens=g.max_new_tokens,
    context=config.data.seq_len,
    sampling=Sampling(g.temperature, g.top_k, g.top_p),
    eos_id=eos_id,
    seed=g.seed,
    prefill=g.prefill,
  )


def chosen_point(workdir: pathlib.Path) -> Point:
  """The operating point of a run.

  Raises:
    ConfigError: the run was not evaluated.
  """
  path = workdir / 'results.json'
  if not path.exists():
    raise ConfigError(
      f'{path} is missing: it holds the exit thresholds; run '
      '--mode=evaluate first'
    )
  return operating_point(json.loads(path.read_text())['chosen'])


def exit_text(
  config: Any,
  model: Any,
  params: Any,
  tokenizer: Any,
  prompt: str,
  point: Point | None,
) -> None:
  """Prints a continuation, each token shaded by the depth it took.

  Args:
    config: of the run.
    model, params, tokenizer: the run's.
    prompt: what is continued.
    point: where tokens exit; None = nowhere.
  """
  cfg, exits, layers_run, say = model.cfg, [], 0, _Speech(tokenizer)
  depth_K, color = np.asarray(cfg.depth_K), sys.stdout.isatty()
  pieces = loop.stream(
    model,
    {'params': params},
    [tokenizer.encode(prompt)],
    point,
    options=options_from(config, tokenizer.eos_id),
  )
  for number, piece in enumerate(pieces):
    if number == 0:  # not before the prompt turned out to be one
      print(prompt, end='')
    exit = int(piece.exit_B[0])
    text = say(int(piece.token_B[0]))
    print(shaded(text, depth_K[exit] / cfg.depth, color), end='', flush=True)
    exits.append(exit)
    layers_run += int(piece.layers_run)
  print(say.rest(), end='')
  compute, how = 1.0, 'no exits'
  if point is not None:
    how = f'{point.spec.signal}, {point.spec.policy}'
    compute = passes.compute_of_exits(
      cfg, point.spec, point.threshold_K(len(cfg.cells)), np.asarray([exits])
    )
  print(
    f'\n[{len(exits)} tokens, exits after layer {depth_K[exits].mean():.2f} '
    f'of {cfg.depth} on average ({layers_run / len(exits):.2f} run), '
    f'compute {compute:.1%} of the full model, {how}]'
  )


def speculative_text(
  config: Any,
  model: Any,
  params: Any,
  tokenizer: Any,
  prompt: str,
  draft: speculation.Draft,
) -> None:
  """Prints the full model's continuation, in blocks that drafts made.

  Args:
    config, model, params, tokenizer, prompt: see `exit_text`.
    draft: how drafts are made.
  """
  total, num, say = speculation.NOTHING, 0, _Speech(tokenizer)
  blocks = speculation.stream(
    model,
    {'params': params},
    tokenizer.encode(prompt),
    draft,
    options=options_from(config, tokenizer.eos_id),
  )
  for tokens, tally in blocks:
    if num == 0:
      print(prompt, end='')
    print(''.join(say(int(t)) for t in tokens), end='', flush=True)
    total, num = speculation.add(total, tally), num + len(tokens)
  segment, layer = model.cfg.cells[draft.readout]
  print(
    f'{say.rest()}\n[{num} tokens of the full model, {total.accepted} of '
    f'{total.drafted} drafts accepted, drafted after segment {segment} layer '
    f'{layer}; {total.layers_run / num:.2f} of {model.cfg.depth} layers run '
    'for a token]'
  )
