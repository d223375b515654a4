"""Cached generation with exits, token by token.

Correct for every signal and K/V policy. A layer that no row needs any more is
not run, but for its keys and values.
"""

import functools
import json
import pathlib
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ease_jax import costs, exits
from ease_jax.config import ConfigError
from ease_jax.sweep import operating_point


class Cache(NamedTuple):
  """Keys and values of every layer of every segment, and which may be seen."""

  key: tuple[jax.Array, ...]  # S * L of [B, C, Hkv, D/H]
  value: tuple[jax.Array, ...]
  valid: tuple[jax.Array, ...]  # S * L of [B, C] bool


def init_cache(cfg: Any, batch_size: int, length: int) -> Cache:
  """An empty cache for `length` positions."""
  shape = batch_size, length, cfg.num_kv_heads, cfg.head_dim
  layers = range(cfg.depth)
  kv = tuple(jnp.zeros(shape, cfg.dtype) for _ in layers)
  return Cache(kv, kv, tuple(jnp.zeros(shape[:2], bool) for _ in layers))


@functools.partial(jax.jit, static_argnames=('model', 'spec'))
def step(
    params: Any,
    cache: Cache,
    token_B: jax.Array,
    position: jax.Array,
    threshold_K: jax.Array,
    target_B: jax.Array,
    *,
    model: Any,
    spec: exits.ExitSpec,
) -> tuple[exits.Walk, jax.Array, jax.Array, Cache]:
  """Decodes one position of every row.

  Returns:
    The walk ([B, 1] arrays), the answering readout's logits [B, V] float32,
    how many layers were run, and the cache with this position filled as the
    policy says.

  Raises:
    ConfigError: the cache was made for another number of segments.
  """
  if len(cache.key) != model.cfg.depth:
    raise ConfigError(
        f'the cache has {len(cache.key)} layers; model.segments='
        f'{model.cfg.segments} runs {model.cfg.depth}; use init_cache with '
        'the same config')
  bound = model.bind({'params': params})
  key, value, valid = map(list, cache)

  def look(layer, kv, done_Bx1):
    put = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=1)
    seen_Bx1 = ~done_Bx1 if spec.policy == 'drop' else done_Bx1 | True
    key[layer] = put(key[layer], kv[0], position)
    value[layer] = put(value[layer], kv[1], position)
    valid[layer] = put(valid[layer], seen_Bx1, position)
    return (key[layer], value[layer]), valid[layer][:, None, :]

  out, layers_run = exits.walk(
      bound, spec, threshold_K, token_B[:, None], target_B[:, None],
      position[None], look, skip=True)  # pyformat: disable
  logits_BxV = out.normed_BxTxD[:, 0] @ bound.unembedding().T
  cache = Cache(tuple(key), tuple(value), tuple(valid))
  return out, logits_BxV.astype(jnp.float32), layers_run, cache


class Generated(NamedTuple):
  """Tokens (prompt first); for each predicted one, exit and layers run."""

  tokens: np.ndarray  # [prompt + new] int32
  exits: np.ndarray  # [new] int32, readout
  layers_run: np.ndarray  # [new] int32


def generate(
    model: Any,
    params: Any,
    prompt: np.ndarray,
    threshold_K: Any,
    spec: exits.ExitSpec,
    *,
    context: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    eos_id: int | None = None,
    seed: int = 0,
) -> Generated:
  """Continues one prompt, each new token stopping at its own readout.

  Prompt tokens exit by the same rule as generated ones, so that the cache
  is the one that the exit-consistent evaluation assumes.

  Args:
    model: a body.
    params: its parameters.
    prompt: [P] token ids, at least one.
    threshold_K: one per readout; +inf never exits there.
    spec: signal and K/V policy.
    context: most positions the model was trained on (C).
    max_new_tokens: stops earlier at `eos_id` or when the context is full.
    temperature: 0 = greedy.
    eos_id: token that ends the text, or None.
    seed: of the sampling.

  Raises:
    ConfigError: the prompt is empty or fills the context.
  """
  if not 0 < len(prompt) < context:
    raise ConfigError(
        f'--prompt has {len(prompt)} tokens; it must have 1 to '
        f'{context - 1} (data.seq_len={context}); change its length')
  cache = init_cache(model.cfg, 1, context)
  threshold_K = jnp.asarray(threshold_K, jnp.float32)
  tokens, key = [int(t) for t in prompt], jax.random.key(seed)
  used, layers_run = [], []
  end = min(context, len(prompt) + max_new_tokens)
  for position in range(end - 1):
    token_B = jnp.asarray([tokens[position]], jnp.int32)
    out, logits_BxV, ran, cache = step(
        params, cache, token_B, jnp.int32(position), threshold_K, token_B,
        model=model, spec=spec)  # pyformat: disable
    if position + 1 < len(prompt):
      continue
    if temperature > 0:
      draw = jax.random.fold_in(key, position)
      new = int(jax.random.categorical(draw, logits_BxV[0] / temperature))
    else:
      new = int(logits_BxV[0].argmax())
    tokens.append(new)
    used.append(int(out.exit_BxT[0, 0]))
    layers_run.append(int(ran))
    if new == eos_id:
      break
  return Generated(
      *(np.asarray(x, np.int32) for x in (tokens, used, layers_run)))


def shaded(text: str, depth: float, color: bool) -> str:
  """`text` on a background that darkens with depth in [0, 1]."""
  if not color:
    return text
  shade = 255 - round(depth * 12)  # 256-colour greys: 255 light, 243 dark
  ink = 16 if shade > 247 else 231
  return f'\x1b[48;5;{shade}m\x1b[38;5;{ink}m{text}\x1b[0m'


def generate_text(
    config: Any, workdir: pathlib.Path, model: Any, params: Any, tokenizer: Any,
    prompt: str,
) -> None:  # pyformat: disable
  """Prints a continuation, each token shaded by the depth it took.

  Exits as the run's chosen operating point says; without an evaluated
  `results.json` in the workdir it is a ConfigError.
  """
  path = workdir / 'results.json'
  if not path.exists():
    raise ConfigError(
        f'{path} is missing: it holds the exit thresholds; run '
        '--mode=evaluate first')
  point = operating_point(json.loads(path.read_text())['chosen'])
  cfg = model.cfg
  threshold_K = point.threshold_K(len(cfg.cells))
  prompt_N = tokenizer.encode(prompt)
  out = generate(
      model, params, prompt_N, threshold_K, point.spec,
      context=config.data.seq_len, seed=config.seed,
      max_new_tokens=config.generate.max_new_tokens,
      temperature=config.generate.temperature, eos_id=tokenizer.eos_id)
  color = sys.stdout.isatty()
  layer = np.asarray(cfg.depth_K)
  pieces = [
      shaded(tokenizer.token_text(int(t)), layer[e] / cfg.depth, color)
      for t, e in zip(out.tokens[len(prompt_N):], out.exits, strict=True)]
  print(prompt + ''.join(pieces))
  context = costs.mean_context(len(out.tokens))
  cost_K = costs.readout_costs(
      cfg, context, point.spec.policy, signal=point.spec.signal,
      active=threshold_K < np.inf)
  compute = cost_K[out.exits].mean() / costs.full_flops(cfg, context)
  print(
      f'[{len(out.exits)} tokens, exits after layer '
      f'{layer[out.exits].mean():.2f} of {cfg.depth} on average '
      f'({out.layers_run.mean():.2f} run), '
      f'compute {compute:.1%} of the full model, {point.spec.signal}, '
      f'{point.spec.policy}]')
