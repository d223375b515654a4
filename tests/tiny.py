"""Tiny models and batches that several test files share."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import reference
from ease_jax import config, decode
from ease_jax import model as model_lib
from ease_jax.core.policies import OperatingPoint
from ease_jax.decode import step as steps
from ease_jax.evaluate import passes
from ease_jax.model import chunks
from ease_jax.model.attention import positions
from ease_jax.train import loss as losses

VOCAB = 23
# Short names of nested fields of the section `model`.
PLACES = {
  'norm': 'block.norm',
  'norm_kind': 'block.norm_kind',
  'parallel': 'block.parallel',
  'num_heads': 'block.attention.num_heads',
  'num_kv_heads': 'block.attention.num_kv_heads',
  'rope_share': 'block.attention.rope_share',
  'rope_base': 'block.attention.rope_base',
  'head_dim': 'block.attention.head_dim',
  'qkv_bias': 'block.attention.qkv_bias',
  'out_bias': 'block.attention.out_bias',
  'rope_factors': 'block.attention.rope_factors',
  'global_every': 'block.attention.global_every',
  'local_rope_base': 'block.attention.local_rope_base',
  'query_width': 'block.attention.query_width',
  'score_cap': 'block.attention.score_cap',
  'window': 'block.attention.window',
  'qk_norm': 'block.attention.qk_norm',
  'kernel': 'block.attention.kernel',
  'mlp': 'block.mlp.kind',
  'mlp_dim': 'block.mlp.dim',
  'mlp_bias': 'block.mlp.bias',
}
SMALL = dict(
  num_layers=4,
  dim=16,
  num_heads=4,
  num_kv_heads=2,
  mlp_dim=32,
  tie_embeddings=False,
)


def chunk(monkeypatch, elements):
  """Holds so few logits at once, of however few tokens."""
  monkeypatch.setattr(chunks, 'CHUNK_ELEMENTS', elements)
  monkeypatch.setattr(chunks, 'MIN_TOKENS', 1)


def update_model(section, **fields):
  """Sets fields of a config's section `model` by their short names.

  `carry_init`, `inject`, `cycles`, `times` and the like are the body's own,
  `capacity`, `every` and `choice` the router's.
  """
  chosen = (fields.get(name, section[name]) for name in ('body', 'router'))
  own = [section[name] for name in chosen if name and name in section]

  for name, value in fields.items():
    target = section
    *parents, field = PLACES.get(name, name).split('.')
    for subsection in own:
      if name in subsection:
        target = subsection
    for parent in parents:
      target = target[parent]
    target[field] = value


def model_config(
  vocab_size=VOCAB,
  gates=(),
  gate_dim=0,
  attention='causal',
  document_start=None,
  **changes,
):
  c = config.base()
  update_model(c.model, **(SMALL | changes))
  return model_lib.model_config(
    c.model,
    vocab_size,
    gates=gates,
    gate_dim=gate_dim,
    attention=attention,
    document_start=document_start,
  )


def body(vocab_size=VOCAB, **changes):
  return model_lib.build(model_config(vocab_size, **changes))


stack = body  # the default one


def refine(**changes):
  """Two layers, three times."""
  fields = dict(body='refine', num_layers=2, segments=3)
  return body(**(fields | changes))


def recursions(**changes):
  """Two layers, three times, all but the first run with a router."""
  fields = dict(body='cycle', num_layers=6, times=3, own=0, router='mor')
  return body(**(fields | changes))


def hrm(**changes):
  """HRM with the gate that halts it."""
  fields = dict(
    body='hrm',
    num_layers=1,
    segments=3,
    norm='post',
    carry_init='fixed',
    gates=('q_halt',),
  )
  return body(**(fields | changes))


@functools.cache
def params(model, seed=0):
  """Parameters with confident heads, and no norm scale that is just one."""
  tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
  tree = jax.eval_shape(model.init, jax.random.key(0), tokens)['params']
  rng = np.random.default_rng(seed)

  def draw(path, x):
    name = path[-1].key
    if name == 'scale':
      value = rng.normal(1, 0.2, x.shape)
    elif name in ('kernel', 'inject'):
      value = rng.normal(0, x.shape[0] ** -0.5, x.shape)
    elif name == 'frequent':  # different ones
      value = rng.permutation(x.size)
    else:  # the embeddings
      value = rng.normal(0, 0.5, x.shape)
    return jnp.asarray(value, x.dtype)

  return jax.tree_util.tree_map_with_path(draw, tree)


def batch(rows=3, length=12, vocab_size=VOCAB, seed=0):
  rng = np.random.default_rng(seed)
  window = rng.integers(0, vocab_size, (rows, length + 1)).astype(np.int32)
  return {
    'tokens': window[:, :-1],
    'targets': window[:, 1:],
    'mask': np.ones((rows, length), np.float32),
  }


def thresholds(model, params, signal, batch):
  """At the median of each readout's finite scores; the last never counts."""
  num = model.grid.num_readouts
  if signal == 'patience':
    return np.asarray([np.inf, 1, 1, 2, 2, np.inf][-num:], np.float32)
  dump = passes.grid_dump(model, params, lambda: [batch], (signal,))
  middle = []
  for score in dump.score_KxRxT[signal]:
    half = score.size // 2  # between two scores, not on one
    value = np.sort(score.ravel())[half - 1 : half + 1].mean()
    middle.append(value if np.isfinite(score).all() else np.inf)
  return np.asarray([*middle[:-1], np.inf], np.float32)


def assert_trees_equal(a, b):
  """Same structure and the same bits."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_trees_close(a, b, rtol=1e-5, atol=1e-6):
  assert jax.tree.structure(a) == jax.tree.structure(b)

  def close(x, y):
    return np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)

  jax.tree.map(close, a, b)


def plain(model, params):
  """The same model as `reference` writes it."""
  cfg = model.cfg
  return reference.Decoder(
    params=reference.float64(params),
    cells=plain_cells(cfg),
    num_heads=cfg.block.attention.num_heads,
    num_kv_heads=cfg.num_kv_heads,
    rope_share=cfg.block.attention.rope_share,
    rope_base=cfg.block.attention.rope_base,
    rope_factors=cfg.block.attention.rope_factors,
    local_blocks=local_blocks(cfg.block.attention, cfg.num_layers),
    local_rope_base=cfg.block.attention.local_rope_base,
    window_of=windows(cfg.block.attention, cfg.num_layers),
    query_width=cfg.block.attention.query_width,
    score_cap=cfg.block.attention.score_cap,
    logit_cap=cfg.logit_cap,
    screen_candidates=cfg.screen_candidates,
    norm=cfg.block.norm,
    parallel=cfg.block.parallel,
    unit=cfg.block.mlp.kind,
    inject=cfg.options.inject if cfg.body == 'refine' else 'add',
    embed_scale=cfg.dim**0.5 if cfg.body == 'hrm' else cfg.embedding_scale,
  )


def local_blocks(attention, num_layers):
  """All but every so many, counted from 1."""
  every = attention.global_every
  if not every:
    return ()
  return tuple(i for i in range(num_layers) if (i + 1) % every)


def windows(attention, num_layers):
  """How many tokens the blocks see that do not see all."""
  if not attention.window:
    return {}
  near = range(num_layers)
  if attention.global_every:
    near = local_blocks(attention, num_layers)
  return dict.fromkeys(near, attention.window)


def plain_cells(cfg):
  """The cells of a body, written without its schedule."""
  readouts = cfg.readouts or range(1, cfg.num_layers + 1)
  if cfg.body == 'stack':
    every = cfg.routing.every if cfg.routing else None
    cells = reference.stack_cells(cfg.num_layers, readouts, every)
    asides = 'block' in cfg.readout_adapters
    return reference.with_asides(cells) if asides else cells
  if cfg.body == 'cycle':
    times, own = cfg.options.times, cfg.options.own
    return reference.cycle_cells(cfg.num_layers, readouts, times, own)
  if cfg.body == 'refine':
    return reference.refine_cells(
      cfg.num_layers, readouts, cfg.segments, cfg.blocks
    )
  return reference.hrm_cells(
    cfg.num_layers, cfg.options.cycles, cfg.options.cycle_steps, cfg.segments
  )


def first_streams(model, params, token_T):
  """[T, D] of each carried stream before the first cell, float64."""
  bound = model.bind({'params': params})
  state = bound.start(jnp.asarray(token_T)[None], positions(len(token_T)))
  carried = {name: state[name] for name in model.grid.carried}
  return {name: np.asarray(x[0], np.float64) for name, x in carried.items()}


class Decoded(NamedTuple):
  exit_BxT: np.ndarray
  logits_BxTxV: np.ndarray
  layers_run_T: np.ndarray
  heads_run_T: np.ndarray


def point(signal, policy, threshold_K):
  """An operating point from an array of thresholds, or from one number."""
  if np.ndim(threshold_K) == 0:
    return OperatingPoint(signal, policy, float(threshold_K))
  threshold = tuple(float(t) for t in threshold_K)
  return OperatingPoint(signal, policy, threshold)


def masked(model, params, point, batch):
  """The exit-consistent pass at an operating point."""
  return jax.device_get(
    passes.masked_pass(
      params,
      batch,
      jnp.asarray(point.threshold_K(model.grid.num_readouts)),
      model=model,
      rule=point.rule,
    )
  )


def one_step(model, params, rule, threshold_K, token_B, position, cache):
  """A step of rows that all stand at the same position; see `steps.step`."""
  num = len(token_B)
  rows = steps.Rows(
    jnp.asarray(token_B, jnp.int32),
    jnp.full(num, position),
    jnp.full(num, 10**6),
    jnp.zeros(num, bool),
    jax.random.split(jax.random.key(0), num),
  )
  return steps.step(
    params,
    cache,
    rows,
    jnp.asarray(threshold_K),
    jnp.int32(-1),
    model=model,
    rule=rule,
    sampling=decode.Sampling(),
  )


def prefilled(model, params, rule, threshold_K, prompt, length):
  """A cache that one row's prompt was decoded into, token by token."""
  cache = decode.init_cache(model, 1, length)
  for t, token in enumerate(prompt):
    *_, new = one_step(model, params, rule, threshold_K, [token], t, cache)
    cache = decode.commit(cache, new, t)
  return cache


def decoded(model, params, point, batch, cache=None):
  """Teacher-forced decoding of all rows of a batch, token by token."""
  tokens = batch['tokens']
  threshold_K = point.threshold_K(model.grid.num_readouts)
  steps_T = []
  if cache is None:
    cache = decode.init_cache(model, *tokens.shape)

  for t in range(tokens.shape[1]):
    stepped, logits, _, new = one_step(
      model, params, point.rule, threshold_K, tokens[:, t], t, cache
    )
    cache = decode.commit(cache, new, t)
    steps_T.append(
      jax.device_get(
        (stepped.exit_B, logits, stepped.layers_run, stepped.heads_run)
      )
    )

  exit_T, logits_T, layers_run_T, heads_run_T = zip(*steps_T)
  return Decoded(
    np.stack(exit_T, 1),
    np.stack(logits_T, 1),
    np.asarray(layers_run_T),
    np.asarray(heads_run_T),
  )


@functools.partial(jax.jit, static_argnames=('model', 'spec'))
def grid_step(params, batch, seed=0, *, model, spec):
  """Loss, gradients and parameters after one update."""
  key = jax.random.key(seed)

  def loss(p):
    return losses.grid_loss(p, model, spec, batch, 0, key)[0]

  value, grads = jax.value_and_grad(loss)(params)
  optimizer = optax.adamw(1e-2)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  return value, grads, optax.apply_updates(params, updates)


@functools.partial(jax.jit, static_argnames='model')
def logits(params, tokens, *, model):
  return model.apply({'params': params}, tokens)
