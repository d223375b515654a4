"""`--mode=generate`: a continuation printed as it comes."""

import json
import pathlib
import sys
from typing import Any

import numpy as np

from ease_jax import evaluate
from ease_jax.config import ConfigError
from ease_jax.decode import loop
from ease_jax.decode.sampling import Sampling
from ease_jax.sweep import Point, operating_point


def shaded(text: str, depth: float, color: bool) -> str:
  """`text` on a background that darkens with depth in [0, 1]."""
  if not color:
    return text
  shade = 255 - round(depth * 12)  # 256-colour greys: 255 light, 243 dark
  ink = 16 if shade > 247 else 231
  return f'\x1b[48;5;{shade}m\x1b[38;5;{ink}m{text}\x1b[0m'


def options_from(config: Any, eos_id: int | None) -> loop.Options:
  """What a config says about generation."""
  g = config.generate
  return loop.Options(
      max_new_tokens=g.max_new_tokens, context=config.data.seq_len,
      sampling=Sampling(g.temperature, g.top_k, g.top_p), eos_id=eos_id,
      seed=config.seed, prefill=g.prefill)


def chosen_point(workdir: pathlib.Path) -> Point:
  """The operating point of a run.

  Raises:
    ConfigError: the run was not evaluated.
  """
  path = workdir / 'results.json'
  if not path.exists():
    raise ConfigError(
        f'{path} is missing: it holds the exit thresholds; run '
        '--mode=evaluate first')
  return operating_point(json.loads(path.read_text())['chosen'])


def generate_text(
    config: Any, workdir: pathlib.Path, model: Any, params: Any, tokenizer: Any,
    prompt: str,
) -> None:  # pyformat: disable
  """Prints a continuation, each token shaded by the depth it took.

  Exits as the run's chosen operating point says; without an evaluated
  `results.json` in the workdir it is a ConfigError.
  """
  point, cfg = chosen_point(workdir), model.cfg
  prompt_N, exits, layers_run = tokenizer.encode(prompt), [], 0
  depth_K, color = np.asarray(cfg.depth_K), sys.stdout.isatty()
  pieces = loop.stream(
      model, {'params': params}, [prompt_N], point,
      options=options_from(config, tokenizer.eos_id))
  for number, piece in enumerate(pieces):
    if number == 0:  # not before the prompt turned out to be one
      print(prompt, end='')
    exit = int(piece.exit_B[0])
    text = tokenizer.token_text(int(piece.token_B[0]))
    print(shaded(text, depth_K[exit] / cfg.depth, color), end='', flush=True)
    exits.append(exit)
    layers_run += int(piece.layers_run)
  compute = evaluate.compute_of_exits(
      cfg, point.spec, point.threshold_K(len(cfg.cells)),
      np.asarray([exits]))
  print(
      f'\n[{len(exits)} tokens, exits after layer {depth_K[exits].mean():.2f} '
      f'of {cfg.depth} on average ({layers_run / len(exits):.2f} run), '
      f'compute {compute:.1%} of the full model, {point.spec.signal}, '
      f'{point.spec.policy}]')
