"""Exit-consistent evaluation: from a trained model to points on a curve.

`grid_dump` reads every readout of every token once; under `recompute` any
threshold is then a reduction of it. The other K/V policies change what later
tokens see, so they take one masked pass per threshold. A `Trace` is the
result of either: where every token stopped and what it lost there.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ease_jax.core import costs, grid, signals
from ease_jax.model import exits, readout

Batches = Callable[[], Iterable[dict[str, np.ndarray]]]


class Dump(NamedTuple):
  """Every readout of every token; R rows of T tokens."""

  nll_KxRxT: np.ndarray
  correct_KxRxT: np.ndarray
  max_prob_KxRxT: np.ndarray
  score_KxRxT: dict[str, np.ndarray]  # by signal
  mask_RxT: np.ndarray
  target_RxT: np.ndarray


class Trace(NamedTuple):
  """Where each token stopped, and its loss there."""

  exit_RxT: np.ndarray
  nll_RxT: np.ndarray
  correct_RxT: np.ndarray


@functools.partial(jax.jit, static_argnames=('model', 'names'))
def _dump_batch(params, batch, *, model, names):
  bound = model.bind({'params': params})
  previous, observations = None, []
  for k, h_BxTxD in enumerate(bound.states(batch['tokens'])):
    state = h_BxTxD, bound.normed(k, h_BxTxD)
    observations.append(
      exits.observe(bound, state, previous, batch['targets'], *names)
    )
    previous = state
  score = {name: signals.scores(name, observations) for name in names}
  stack = lambda field: jnp.stack([getattr(o, field) for o in observations])
  correct = stack('argmax') == batch['targets'][None]
  return stack('nll'), correct, stack('max_prob'), score


def grid_dump(
  model: Any, params: Any, batches: Batches, names: Sequence[str]
) -> Dump:
  """Reads all readouts once, with the scores of the named signals."""
  parts = []
  for batch in batches():
    arrays = jax.device_get(
      _dump_batch(params, batch, model=model, names=tuple(names))
    )
    parts.append((*arrays, batch['mask'], batch['targets']))
  axis = [1, 1, 1, 1, 0, 0]
  join = lambda axis: lambda *xs: np.concatenate(xs, axis)
  fields = [
    jax.tree.map(join(a), *column) for a, column in zip(axis, zip(*parts))
  ]
  return Dump(*fields)


def trace_from_dump(dump: Dump, exit_RxT: np.ndarray) -> Trace:
  """The trace of given exits when deeper keys and values are the true ones."""
  take = lambda x: np.take_along_axis(x, exit_RxT[None], 0)[0]
  return Trace(exit_RxT, take(dump.nll_KxRxT), take(dump.correct_KxRxT))


def trace(
  model: Any,
  params: Any,
  batches: Batches,
  dump: Dump,
  spec: exits.ExitSpec,
  threshold_K: np.ndarray,
) -> Trace:
  """Where tokens stop under the given thresholds and K/V policy.

  With no finite threshold the policy is irrelevant, and `recompute` is a
  reduction of the dump.
  """
  threshold_K = np.asarray(threshold_K, np.float32)
  never = bool(np.all(threshold_K[:-1] == np.inf))
  if spec.policy == 'recompute' or never:
    last = len(threshold_K) - 1
    if never:
      return trace_from_dump(dump, np.full(dump.mask_RxT.shape, last))
    hit = np.array(_exits(dump.score_KxRxT[spec.signal], threshold_K))
    return trace_from_dump(dump, hit)
  parts = []
  for batch in batches():
    out = exits.masked_pass(
      params, batch, jnp.asarray(threshold_K), model=model, spec=spec
    )
    obs = out.observation
    parts.append(
      jax.device_get((out.exit_BxT, obs.nll, obs.argmax == batch['targets']))
    )
  return Trace(*(np.concatenate(column) for column in zip(*parts)))


_exits = jax.jit(grid.first_exit)


def last_nll(model: Any, params: Any, batches: Iterable[Any]) -> float:
  """Mean loss of the last readout over all unmasked tokens, nats."""
  total = count = 0.0
  for batch in batches:
    nll_sum, num = _last_nll(params, batch, model=model)
    total, count = total + float(nll_sum), count + float(num)
  return total / count


@functools.partial(jax.jit, static_argnames=('model',))
def _last_nll(params, batch, *, model):
  bound = model.bind({'params': params})
  h_BxTxD = bound.states(batch['tokens'])[-1]
  n_NxD = bound.normed(len(model.cfg.cells) - 1, h_BxTxD)
  mask_N = batch['mask'].reshape(-1)
  total = readout.linear_cross_entropy(
    n_NxD.reshape(mask_N.size, -1),
    bound.unembedding(),
    batch['targets'].reshape(-1),
    mask_N,
  )
  return total, mask_N.sum()


def quality(
  nll_RxT: np.ndarray,
  correct_RxT: np.ndarray,
  dump: Dump,
  token_bytes: np.ndarray,
) -> dict[str, float]:
  """nll, ppl = exp(total nll / tokens), bits per byte, accuracy.

  Sums run over unmasked tokens in float64, so that neither batch size nor a
  ragged last batch changes them.
  """
  mask = dump.mask_RxT > 0
  total, count = nll_RxT[mask].sum(dtype=np.float64), mask.sum()
  num_bytes = token_bytes[dump.target_RxT[mask]].sum()
  return {
    'nll': float(total / count),
    'ppl': float(math.exp(total / count)),
    'bits_per_byte': float(total / math.log(2) / num_bytes),
    'accuracy': float(correct_RxT[mask].mean(dtype=np.float64)),
  }


def compute(
  cfg: Any,
  spec: exits.ExitSpec,
  threshold_K: np.ndarray,
  trace: Trace,
  mask_RxT: np.ndarray,
) -> dict[str, Any]:
  """What the exits of a trace cost, relative to this model's full pass.

  Returns:
    compute (FLOPs per token over those of a full pass), layer_fraction,
    mean_readout (1-based), exit_fraction [K]; under `recompute`, where
    exited tokens must make up layers for later ones, compute is the least
    that any decoder must do, and compute_uncharged leaves them out: what most
    papers report.
  """
  mask = mask_RxT > 0
  count_K = np.bincount(trace.exit_RxT[mask], minlength=len(cfg.cells))
  context = costs.mean_context(mask_RxT.shape[1])
  cost_K = costs.readout_costs(
    cfg,
    context,
    spec.policy,
    signal=spec.signal,
    active=np.asarray(threshold_K) < np.inf,
  )
  full = costs.full_flops(cfg, context)
  flops = float(count_K @ cost_K)
  result = {}
  if spec.policy == 'recompute':
    result['compute_uncharged'] = flops / mask.sum() / full
    deferred_KxK = costs.deferred_flops(cfg, context)
    deepest_RxT = _deepest_later(np.where(mask, trace.exit_RxT, 0))
    flops += float(deferred_KxK[trace.exit_RxT, deepest_RxT][mask].sum())
  fraction_K = count_K / mask.sum()
  layer_K = np.asarray(cfg.depth_K)
  return {
    'compute': flops / float(mask.sum()) / full,
    'layer_fraction': float(fraction_K @ layer_K) / cfg.depth,
    'mean_readout': float(fraction_K @ np.arange(1, len(layer_K) + 1)),
    'exit_fraction': fraction_K.tolist(),
    **result,
  }


def compute_of_exits(
  cfg: Any,
  spec: exits.ExitSpec,
  threshold_K: np.ndarray,
  exit_RxT: np.ndarray,
) -> float:
  """The `compute` of rows that were decoded from their first token on.

  Under `recompute` that is what `decode` does, whose tokens wait in a window:
  in the end it makes up nearly everything, many tokens at a time.
  """
  trace = Trace(exit_RxT, exit_RxT, exit_RxT)  # only the exits cost
  mask_RxT = np.ones(exit_RxT.shape)
  found = compute(cfg, spec, threshold_K, trace, mask_RxT)
  if spec.policy != 'recompute':
    return found['compute']
  context = costs.mean_context(exit_RxT.shape[1])
  static_K = costs.static_costs(cfg, context)
  more_RxT = static_K[_made_up(cfg, exit_RxT)] - static_K[exit_RxT]
  return found['compute_uncharged'] + float(
    more_RxT.mean() / costs.full_flops(cfg, context)
  )


def _made_up(cfg: Any, exit_RxT: np.ndarray) -> np.ndarray:
  """The readout that each token is taken to under `recompute`, [R, T].

  A token takes those that wait along; one that has waited for a whole window
  takes them all through.
  """
  last, reached_RxT = len(cfg.cells) - 1, exit_RxT.copy()
  if cfg.body == 'hrm':  # skips nothing; see `decode.loop.defers`
    return np.full_like(exit_RxT, last)
  for t in range(exit_RxT.shape[1]):
    depth_R = exit_RxT[:, t]
    if t >= costs.MAX_WAITING:
      waited_R = reached_RxT[:, t - costs.MAX_WAITING] < last
      depth_R = np.where(waited_R, last, depth_R)
    window = reached_RxT[:, max(0, t - costs.MAX_WAITING) : t + 1]
    np.maximum(window, depth_R[:, None], out=window)
  return reached_RxT


def _deepest_later(exit_RxT: np.ndarray) -> np.ndarray:
  """Deepest readout among the later tokens of the row, 0 for the last."""
  running = np.maximum.accumulate(exit_RxT[:, ::-1], axis=1)[:, ::-1]
  return np.pad(running[:, 1:], ((0, 0), (0, 1)))


def oracle_exit(dump: Dump) -> np.ndarray:
  """First readout whose loss is no worse than the last one's, [R, T]."""
  as_good = dump.nll_KxRxT <= dump.nll_KxRxT[-1]
  return as_good.argmax(0).astype(np.int32)


def calibration(dump: Dump, k: int, num_bins: int = 15) -> dict[str, Any]:
  """Reliability of readout k: does max-prob equal accuracy? (1706.04599)

  Returns:
    ece (expected calibration error) and bins of confidence, accuracy, count.
  """
  mask = dump.mask_RxT > 0
  confidence = dump.max_prob_KxRxT[k][mask].astype(np.float64)
  correct = dump.correct_KxRxT[k][mask]
  bin_N = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
  bins = [
    {
      'confidence': float(confidence[bin_N == b].mean()),
      'accuracy': float(correct[bin_N == b].mean()),
      'count': int((bin_N == b).sum()),
    }
    for b in range(num_bins)
    if (bin_N == b).any()
  ]
  gaps = [abs(b['confidence'] - b['accuracy']) * b['count'] for b in bins]
  return {'ece': sum(gaps) / len(confidence), 'bins': bins}
