"""What `results.json` and the report say about a trained model's exits."""

import dataclasses
import math
from typing import Any

import numpy as np

from ease_jax import model as model_lib
from ease_jax.config import ConfigError
from ease_jax.core import costs
from ease_jax.data import Corpus
from ease_jax.evaluate import passes
from ease_jax.evaluate.sweep import (
  Point,
  Rule,
  Split,
  choose,
  scalar_points,
  searched_points,
)

PASSAGE_TOKENS = 900


def evaluate_run(
  config: Any, model: Any, params: Any, corpus: Corpus
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Everything `results.json` says about exits, and the report's passage.

  Raises:
    ConfigError: thresholds would be reported on the split they were chosen
      on.
  """
  names = config.evaluate.select_split, config.evaluate.report_split
  if names[0] == names[1]:
    raise ConfigError(
      f'evaluate.select_split={names[0]!r} equals evaluate.report_split='
      f'{names[1]!r}; use two splits'
    )
  select, report = (
    Split(name, config, model, params, corpus, config.evaluate.max_tokens)
    for name in names
  )
  points = list(scalar_points(config))
  chosen_on = [select.measure(point) for point in points]
  full = chosen_on[points.index(next(p for p in points if p.threshold is None))]
  for point, row in searched_points(config, select, full['ppl']):
    points.append(point)
    chosen_on.append(row)
  reported = [report.measure(point) for point in points]
  best = choose(chosen_on, config)
  results = {
    'readouts': _readout_rows(config, model.cfg, select, report),
    'sweep': chosen_on + reported,
    'chosen': _chosen(config, points[best], chosen_on, reported, best),
    'oracle': [_oracle_row(split) for split in (select, report)],
    'calibration': [
      {'segment': segment, 'layer': layer, **passes.calibration(report.dump, k)}
      for k, (segment, layer) in enumerate(model.cfg.cells)
    ],
    'segments': _segment_rows(config, params, model.cfg, (select, report)),
  }
  # Consecutive text, where the evaluation's windows may be far apart.
  name = config.evaluate.report_split
  start = dataclasses.replace(
    corpus, splits={name: corpus.splits[name][: PASSAGE_TOKENS + 1]}
  )
  passage = Split(name, config, model, params, start, 0)
  return results, _passage(passage, points[best], corpus.tokenizer)


def _readout_rows(config, cfg, select, report) -> list[dict[str, Any]]:
  context = costs.mean_context(config.data.seq_len)
  cost_K = costs.static_costs(cfg, context)
  full = costs.full_flops(cfg, context)
  return [
    {
      'segment': segment,
      'layer': layer,
      'cost_flops': float(cost_K[k]),
      'cost': float(cost_K[k] / full),
      'layer_fraction': cfg.depth_K[k] / cfg.depth,
      'select': select.readout(k),
      'test': report.readout(k),
    }
    for k, (segment, layer) in enumerate(cfg.cells)
  ]


def _segment_rows(config, params, cfg, splits) -> list[dict[str, Any]]:
  """Quality at the end of 1 to 2 S segments: does refinement go on?

  Empty for bodies of one segment.
  """
  if cfg.segments == 1:
    return []
  num, per_segment = (
    config.evaluate.segments or 2 * cfg.segments,
    len(cfg.readouts),
  )
  model = model_lib.build(dataclasses.replace(cfg, segments=num))
  dumps = [
    passes.grid_dump(model, params, split.batches, ()) for split in splits
  ]
  return [
    {'segments': s}
    | {
      name: split.dump_quality(dump, s * per_segment - 1)
      for name, split, dump in zip(('select', 'test'), splits, dumps)
    }
    for s in range(1, num + 1)
  ]


def _chosen(config, point, chosen_on, reported, best) -> dict[str, Any]:
  def side(rows):
    row = rows[best]
    off = next(
      r
      for r in rows
      if r['threshold'] is None and r['kv_policy'] == row['kv_policy']
    )
    keys = (
      'nll',
      'ppl',
      'bits_per_byte',
      'accuracy',
      'compute',
      'layer_fraction',
      'mean_readout',
      'exit_fraction',
    )
    return {k: row[k] for k in keys} | {'ppl_vs_full': row['ppl'] / off['ppl']}

  return {
    'rule': str(Rule.from_config(config)),
    'signal': point.spec.signal,
    'threshold': point.as_json(),
    'kv_policy': point.spec.policy,
    'select_split': config.evaluate.select_split,
    'report_split': config.evaluate.report_split,
    'select': side(chosen_on),
    'test': side(reported),
  }


def _oracle_row(split: Split) -> dict[str, Any]:
  """The bound: a free signal that knows the answer, free keys and values."""
  cfg, mask = split.model.cfg, split.dump.mask_RxT > 0
  exit_RxT = passes.oracle_exit(split.dump)
  trace = passes.trace_from_dump(split.dump, exit_RxT)
  fraction_K = (
    np.bincount(exit_RxT[mask], minlength=len(cfg.cells)) / mask.sum()
  )
  context = costs.mean_context(mask.shape[1])
  cost_K = costs.static_costs(cfg, context) / costs.full_flops(cfg, context)
  return {
    'split': split.name,
    'kv_policy': 'recompute',
    **split.quality(trace),
    'compute': float(fraction_K @ cost_K),
    'layer_fraction': float(fraction_K @ np.asarray(cfg.depth_K) / cfg.depth),
    'exit_fraction': fraction_K.tolist(),
  }


def _passage(split: Split, point: Point, tokenizer: Any) -> dict[str, Any]:
  """The first tokens of the split, each with its exit and loss."""
  trace, mask = split.trace(point), split.dump.mask_RxT > 0
  cells = split.model.cfg.cells
  fields = (split.dump.target_RxT, trace.exit_RxT, trace.nll_RxT)
  tokens = zip(*(field[mask] for field in fields), strict=True)
  return {
    'split': split.name,
    'tokens': [
      {
        'text': tokenizer.token_text(int(target)),
        'prob': float(math.exp(-nll)),
        'exit': int(exit),
        'segment': cells[int(exit)][0],
        'layer': cells[int(exit)][1],
        'nll': float(nll),
      }
      for target, exit, nll in tokens
    ],
  }
