"""What makes a config invalid, each in one line with the fix."""

import math
from typing import Any

from ease_jax.config import (
  BODIES,
  CARRY_INITS,
  CARRY_INJECTS,
  KV_POLICIES,
  METHODS,
  NORMALIZATIONS,
  OPTIMIZERS,
  SCHEDULES,
  SIGNAL_RANGES,
  SOURCES,
  SPLITS,
  TOKENIZERS,
  UPDATES,
  WEIGHTS,
  ConfigError,
  readouts,
)


def _need(ok: bool, message: str) -> None:
  if not ok:
    raise ConfigError(message)


def _one_of(name: str, value: Any, options: Any) -> None:
  _need(
    value in options,
    f'{name}={value!r} is unknown; use one of: {", ".join(map(str, options))}',
  )


def _positive(config: Any, *names: str) -> None:
  for name in names:
    section, field = name.split('.')
    value = config[section][field]
    _need(value >= 1, f'{name}={value} must be at least 1')


def _validate_model(m: Any) -> None:
  _need(
    m.dim % m.num_heads == 0,
    f'model.dim={m.dim} is not divisible by model.num_heads={m.num_heads}; '
    'change one of them',
  )
  _need(
    m.dim // m.num_heads % 2 == 0,
    f'model.dim={m.dim} / model.num_heads={m.num_heads} is odd; rotary '
    'positions need an even head width',
  )
  _need(
    m.num_heads % m.num_kv_heads == 0,
    f'model.num_heads={m.num_heads} is not divisible by '
    f'model.num_kv_heads={m.num_kv_heads}; change one of them',
  )
  _one_of('model.mlp', m.mlp, ('gelu', 'swiglu'))
  _one_of('model.readout_norm', m.readout_norm, ('shared', 'per_readout'))
  _one_of('model.dtype', m.dtype, ('float32', 'bfloat16'))
  _need(0 <= m.dropout < 1, f'model.dropout={m.dropout} is not in [0, 1)')
  layers = tuple(m.readouts)
  _need(
    all(isinstance(l, int) and 1 <= l <= m.num_layers for l in layers)
    and layers == tuple(sorted(set(layers))),
    f'model.readouts={layers} must be increasing layers from 1 to '
    f'model.num_layers={m.num_layers}',
  )
  _need(
    not layers or layers[-1] == m.num_layers,
    f'model.readouts={layers} must end with model.num_layers='
    f'{m.num_layers}: the last layer always answers',
  )


def _validate_body(c: Any) -> None:
  m = c.model
  _one_of('model.body', m.body, BODIES)
  _one_of('model.block_norm', m.block_norm, ('pre', 'post'))
  _one_of('model.carry_init', m.carry_init, CARRY_INITS)
  _one_of('model.carry_inject', m.carry_inject, CARRY_INJECTS)
  _positive(
    c,
    'model.segments',
    'model.carry_backprop',
    'model.cycles',
    'model.cycle_steps',
  )
  _need(
    m.body != 'stack' or m.segments == 1,
    f'model.body=stack has no state to carry through model.segments='
    f'{m.segments}; use model.body=refine, or model.segments=1',
  )
  _need(
    m.carry_backprop <= m.segments,
    f'model.carry_backprop={m.carry_backprop} is more than model.segments='
    f'{m.segments}; lower it',
  )
  if m.body == 'hrm':
    _need(
      m.carry_inject == 'add',
      f'model.carry_inject={m.carry_inject} does not fit model.body=hrm, '
      'whose states are added; use add, or model.body=refine',
    )
    _need(
      m.carry_init != 'learned',
      'model.carry_init=learned does not fit model.body=hrm, whose one-step '
      'gradient never reaches it; use zeros, fixed or random',
    )
    _need(
      readouts(m) == (m.num_layers,),
      f'model.readouts={tuple(m.readouts)} does not fit model.body=hrm, '
      'which is read at the end of a segment only; use ()',
    )
    _need(
      m.carry_backprop == 1,
      f'model.carry_backprop={m.carry_backprop} does not fit model.body=hrm, '
      'whose gradient is of one step; use 1',
    )
  else:
    _need(
      m.body == 'refine' or (m.carry_init, m.carry_inject) == ('zeros', 'add'),
      f'model.carry_init={m.carry_init} and model.carry_inject='
      f'{m.carry_inject} do not fit model.body=stack, which carries nothing; '
      'leave them at zeros and add, or use model.body=refine',
    )
    _need(
      (m.cycles, m.cycle_steps) == (2, 2),
      f'model.cycles={m.cycles} and model.cycle_steps={m.cycle_steps} mean '
      f'something for model.body=hrm only, not {m.body}; leave them at 2',
    )
  _one_of('train.updates', c.train.updates, UPDATES)
  if c.train.updates == 'per_segment':
    rows = [any(row) for row in c.loss.matrix]
    _need(
      m.segments == 1
      or not (
        c.loss.weights == 'final'
        or (c.loss.weights == 'matrix' and not all(rows))
      ),
      f'train.updates=per_segment does not fit loss.weights='
      f'{c.loss.weights} that leaves a segment without a loss; use '
      'loss.weights=segment_ends, or give each row of loss.matrix a weight',
    )
    _need(
      m.carry_backprop == 1,
      f'train.updates=per_segment does not fit model.carry_backprop='
      f'{m.carry_backprop}: an update per segment ends the gradient there; '
      'use model.carry_backprop=1 or train.updates=joint',
    )
    _need(
      c.train.accumulate == 1,
      f'train.updates=per_segment does not fit train.accumulate='
      f'{c.train.accumulate}; use 1',
    )
  _need(
    c.evaluate.segments >= 0,
    f'evaluate.segments={c.evaluate.segments} must be 0 or positive',
  )
  _need(
    c.evaluate.segments == 0 or m.segments > 1,
    f'evaluate.segments={c.evaluate.segments} does not fit model.segments=1, '
    'which has nothing to run again; use 0',
  )


def _validate_matrix(loss: Any, m: Any) -> None:
  rows = [tuple(row) for row in loss.matrix]
  _need(
    len(rows) == m.segments and all(len(row) == m.num_layers for row in rows),
    f'loss.matrix has rows of {[len(row) for row in rows]} weights; it must '
    f'have model.segments={m.segments} rows of model.num_layers='
    f'{m.num_layers}',
  )
  for row in rows:
    for layer, weight in enumerate(row, 1):
      _need(
        weight == 0 or layer in readouts(m),
        f'loss.matrix weighs layer {layer} with {weight}, which is not in '
        f'model.readouts={readouts(m)}; add it there',
      )


def _validate_loss(c: Any) -> None:
  loss = c.loss
  _one_of('loss.weights', loss.weights, WEIGHTS)
  _one_of('loss.schedule', loss.schedule, SCHEDULES)
  _one_of('loss.normalize', loss.normalize, NORMALIZATIONS)
  _need(
    0 < loss.token_fraction <= 1,
    f'loss.token_fraction={loss.token_fraction} is not in (0, 1]',
  )
  for name in ('exit_threshold', 'exit_rows', 'halt_exploration'):
    _need(0 <= loss[name] <= 1, f'loss.{name}={loss[name]} is not in [0, 1]')
  if loss.weights == 'chosen':
    for layer, _ in loss.chosen:
      _need(
        layer in readouts(c.model),
        f'loss.chosen names layer {layer}, which '
        f'is not in model.readouts={readouts(c.model)}; add it there',
      )
    _need(len(loss.chosen) > 0, 'loss.weights=chosen needs loss.chosen')
  if loss.weights == 'matrix':
    _validate_matrix(loss, c.model)
  if loss.schedule in (
    'linear_warmup',
    'cosine_warmup',
    'gradual',
    'switch_off',
  ):
    _need(
      loss.schedule_steps >= 1,
      f'loss.schedule={loss.schedule} needs loss.schedule_steps >= 1, got '
      f'{loss.schedule_steps}',
    )
  _positive(c, 'loss.rotate_every')
  _need(
    loss.halt_weight >= 0,
    f'loss.halt_weight={loss.halt_weight} must be 0 (off) or positive',
  )


def _validate_exit(c: Any) -> None:
  for signal in c.exit.signals:
    _one_of('exit.signals', signal, SIGNAL_RANGES)
    _need(
      signal != 'q_halt' or (c.model.body == 'hrm' and c.loss.halt_weight > 0),
      f'exit.signals names q_halt, which model.body={c.model.body} with '
      f'loss.halt_weight={c.loss.halt_weight} does not learn; use '
      'model.body=hrm and a positive weight, or another signal',
    )
    for threshold in c.exit.thresholds[signal]:
      check_threshold(signal, threshold)
  _need(len(c.exit.policies) > 0, 'exit.policies=() names no K/V policy')
  for policy in c.exit.policies:
    _one_of('exit.policies', policy, KV_POLICIES)
    _need(
      policy != 'latest' or c.model.segments > 1,
      'exit.policies names latest, which needs layers that run again: '
      f'model.segments={c.model.segments}; raise it or use copy_state',
    )
  _need(
    c.exit.policy in c.exit.policies,
    f'exit.policy={c.exit.policy!r} is not in exit.policies='
    f'{tuple(c.exit.policies)}; add it there',
  )
  _need(
    c.exit.max_ppl_ratio >= 1,
    f'exit.max_ppl_ratio={c.exit.max_ppl_ratio} must be at least 1',
  )
  _need(
    c.exit.max_compute >= 0,
    f'exit.max_compute={c.exit.max_compute} must be 0 (off) or positive',
  )
  for name in ('select_split', 'report_split'):
    _one_of(f'evaluate.{name}', c.evaluate[name], SPLITS)
  _need(
    c.evaluate.select_split != c.evaluate.report_split,
    f'evaluate.select_split={c.evaluate.select_split!r} equals '
    f'evaluate.report_split={c.evaluate.report_split!r}: thresholds may not '
    'be reported on the split they were chosen on; use two splits',
  )


def check_threshold(signal: str, threshold: float) -> None:
  """Raises ConfigError unless the threshold can be a score of the signal.

  `+inf` (never) and `-inf` (first readout) are always allowed.
  """
  low, high = SIGNAL_RANGES[signal]
  _need(
    math.isinf(threshold) or low <= threshold <= high,
    f'exit.thresholds.{signal} contains {threshold}, outside the range '
    f'[{low}, {high}] of signal {signal}',
  )


def validate(c: Any) -> None:
  """Raises ConfigError, naming the field and the fix, if `c` cannot run."""
  _one_of('data.source', c.data.source, SOURCES)
  _one_of('data.tokenizer', c.data.tokenizer, TOKENIZERS)
  for name in ('select_fraction', 'test_fraction'):
    value = c.data[name]
    _need(0 < value < 0.5, f'data.{name}={value} is not in (0, 0.5)')
  _positive(
    c,
    'data.seq_len',
    'model.num_layers',
    'model.dim',
    'model.num_heads',
    'model.num_kv_heads',
    'model.mlp_dim',
    'train.steps',
    'train.batch_size',
    'train.accumulate',
    'train.log_every',
    'train.eval_every',
    'train.checkpoint_every',
    'train.keep',
    'evaluate.batch_size',
    'generate.max_new_tokens',
  )
  _need(
    c.train.batch_size % c.train.accumulate == 0,
    f'train.batch_size={c.train.batch_size} is not divisible by '
    f'train.accumulate={c.train.accumulate}; change one of them',
  )
  _one_of('generate.method', c.generate.method, METHODS)
  _need(
    len(c.generate.draft) in (0, 3),
    f'generate.draft={tuple(c.generate.draft)} has {len(c.generate.draft)} '
    'values; give readout, length and threshold, or () for the fastest',
  )
  _one_of('optimizer.name', c.optimizer.name, OPTIMIZERS)
  _validate_model(c.model)
  _validate_body(c)
  _validate_loss(c)
  _validate_exit(c)
