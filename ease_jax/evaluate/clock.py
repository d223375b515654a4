"""What exits save on the clock: the decoder, timed on the report split.

Everything else about a run is a matter of its numbers; this is a matter of the
machine, so it stays out of the sweep.
"""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ease_jax import decode
from ease_jax.config import ConfigError
from ease_jax.core import costs
from ease_jax.data import Corpus, eval_batches
from ease_jax.decode import loop
from ease_jax.decode import step as steps
from ease_jax.evaluate import passes
from ease_jax.evaluate.sweep import Point, operating_point

ROUNDS = 5
CALIBRATION = 4  # prompts
POINTS = 5  # of the sweep, besides exits off


def measure(
  config: Any, model: Any, params: Any, corpus: Corpus, found: Any
) -> dict[str, Any] | None:
  """Tokens per second of some points of the sweep; None if not asked for.

  The decoder reads windows of the report split one by one, so that every token
  stops where the evaluation has it stop; all points take turns.

  Args:
    config: of the run.
    model, params: the evaluated ones.
    corpus: its report split is decoded.
    found: `sweep` and `chosen` of the results.

  Raises:
    ConfigError: the split is too short.
  """
  if not config.evaluate.speed_tokens:
    return None
  name, cfg = config.evaluate.report_split, model.cfg
  windows = [
    batch['tokens']
    for batch in eval_batches(
      corpus.splits[name], config.data.seq_len, 1, config.evaluate.speed_tokens
    )
    if batch['mask'].all()
  ]
  if not windows:
    raise ConfigError(
      f'the {name} split has {len(corpus.splits[name])} tokens, less than a '
      f'window of data.seq_len={config.data.seq_len} to time; set '
      'evaluate.speed_tokens=0'
    )
  rows = [found['chosen'] | {'chosen': True}, *_others(found)]
  points = [None, *map(operating_point, rows)]
  seconds, exits = _timed(
    [_decoding(model, params, windows, point) for point in points]
  )
  tokens = exits[0].size
  full = statistics.median(seconds[0])
  test = found['chosen']['test']
  off_ppl = test['ppl'] / test['ppl_vs_full']
  return {
    'tokens': tokens,
    'rounds': ROUNDS,
    'batch_size': 1,
    'device': jax.devices()[0].device_kind,
    'split': name,
    'head_layers': costs.head_flops(cfg)
    / costs.cell_flops(cfg, costs.mean_context(config.data.seq_len)),
    'points': [
      _point(cfg, *x, tokens, full, off_ppl)
      for x in zip([None, *rows], points, seconds, exits, strict=True)
    ],
    'break_even': _break_even(config, cfg, found['chosen']),
  }


def fastest_draft(
  model: Any,
  variables: Any,
  prompts: Sequence[Sequence[int]],
  drafts: Sequence[decode.Draft],
  *,
  options: decode.Options,
) -> tuple[decode.Draft | None, dict[decode.Draft | None, float]]:
  """The drafting that is fastest on calibration prompts; None is without.

  Args:
    model, variables, prompts, options: see `decode.generate`; the prompts are
      continued one by one.
    drafts: what to try.

  Returns:
    The fastest, and the median seconds of each.
  """

  def plain():
    return [
      decode.generate(model, variables, [p], options=options)[0][0].exits
      for p in prompts
    ]

  ways: list[decode.Draft | None] = [None, *drafts]
  seconds, _ = _timed(
    [
      plain
      if draft is None
      else functools.partial(
        decode.speculate, model, variables, prompts, draft, options=options
      )
      for draft in ways
    ]
  )
  median = dict(zip(ways, map(statistics.median, seconds), strict=True))
  return min(ways, key=lambda way: median[way]), median


def calibration_prompts(config: Any, corpus: Corpus) -> list[list[int]]:
  """The first quarters of some windows of the select split."""
  length = config.data.seq_len
  windows = eval_batches(
    corpus.splits[config.evaluate.select_split], length, 1, CALIBRATION * length
  )
  return [w['tokens'][0, : max(1, length // 4)].tolist() for w in windows]


def _others(found: Any) -> list[dict[str, Any]]:
  """Points with exits like the chosen one's, spread over its sweep."""
  chosen, rows = found['chosen'], found['sweep']
  rows = [
    row | {'test': row, 'chosen': False}
    for row in rows
    if row['split'] == chosen['report_split']
    and row['signal'] == chosen['signal']
    and row['kv_policy'] == chosen['kv_policy']
    and row['threshold'] not in (None, chosen['threshold'])
  ]
  rows.sort(key=lambda row: row['compute'])
  at = np.linspace(0, len(rows) - 1, min(POINTS - 1, len(rows)))
  return [rows[i] for i in sorted(set(at.round().astype(int).tolist()))]


def _decoding(
  model: Any, params: Any, windows: Sequence[np.ndarray], exit: Point | None
) -> Callable[[], np.ndarray]:
  """Decodes given windows [1, T] from an empty cache; exits [R, T]."""
  cfg, length = model.cfg, windows[0].shape[1]
  slot = loop.least_slot(model, exit)
  threshold_K = loop.thresholds(model, exit)
  zero_B, end_B = np.zeros(1, np.int32), np.full(1, length + 1, np.int32)

  def one(token_1xT):
    cache = decode.init_cache(cfg, 1, slot + length)
    rows = loop.start(model, exit, token_1xT[:, 0], zero_B, end_B, 0)
    out, _, _ = steps.many_steps(
      params,
      cache,
      rows,
      np.int32(slot),
      threshold_K,
      np.int32(-1),
      np.roll(token_1xT, -1, 1).T,
      num=length,
      model=model,
      spec=exit.spec if exit else None,
      sampling=decode.Sampling(),
    )
    return out.exit_B[:, 0]

  return lambda: np.stack([np.asarray(one(w)) for w in windows])


def _timed(
  runs: Sequence[Callable[[], Any]],
) -> tuple[list[list[float]], list[Any]]:
  """Seconds of each run in each round, and what it returned."""
  found = [run() for run in runs]  # warm-up
  seconds: list[list[float]] = [[] for _ in runs]
  for _ in range(ROUNDS):
    for run, times in zip(runs, seconds, strict=True):
      start = time.perf_counter()
      run()
      times.append(time.perf_counter() - start)
  return seconds, found


def _point(
  cfg, row, point, seconds, exits, tokens, full, off_ppl
) -> dict[str, Any]:
  low, middle, high = statistics.quantiles(seconds, n=4)
  compute = (
    1.0
    if point is None
    else passes.compute_of_exits(
      cfg, point.spec, point.threshold_K(len(cfg.cells)), exits
    )
  )
  ppl = off_ppl if row is None else row['test']['ppl']
  return {
    'threshold': row and row['threshold'],
    'signal': row and row['signal'],
    'kv_policy': row and row['kv_policy'],
    'ppl': ppl,
    'ppl_vs_full': ppl / off_ppl,
    'tokens_per_second': tokens / middle,
    'tokens_per_second_low': tokens / high,
    'tokens_per_second_high': tokens / low,
    'speedup': full / middle,
    'expected_speedup': 1 / compute,
    'compute': compute,
    'chosen': bool(row and row['chosen']),
  }


def _break_even(config, cfg, chosen) -> list[dict[str, Any]]:
  """At which share of stops a head has paid for itself, and the share."""
  signal, policy = chosen['signal'], chosen['kv_policy']
  if policy == 'recompute':  # the layers are run all the same, later
    return []
  context = costs.mean_context(config.data.seq_len)
  asking = costs.asking_flops(cfg, signal)
  # Who stops needs no last head, but now one here if asking took none.
  head = 0.0 if signal in costs.HEADLESS_SIGNALS else costs.head_flops(cfg)
  static_K = costs.static_costs(cfg, context)
  filled_K = costs.filled_layers(cfg, policy) * costs.kv_flops(cfg)
  fraction_K = np.asarray(chosen['test']['exit_fraction'])
  reached_K = np.cumsum(fraction_K[::-1])[::-1]
  active_K = operating_point(chosen).threshold_K(len(cfg.cells)) < np.inf
  rows = []
  for k, (segment, layer) in enumerate(cfg.cells[:-1]):
    saved = static_K[-1] - static_K[k] - filled_K[k] + head
    rows.append(
      {
        'segment': segment,
        'layer': layer,
        'needed': float(asking / saved),
        'stopped': float(fraction_K[k] / max(reached_K[k], 1e-12)),
        'active': bool(active_K[k]),
      }
    )
  return rows
