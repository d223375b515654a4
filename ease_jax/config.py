"""Every field of every experiment, its default, and what makes it invalid.

A config file calls `base()`, changes fields and returns the result. The base
is locked, so that a mistyped field is an error and never a silent default.
`validate` is called once, before anything expensive happens.
"""

import dataclasses
import math
from typing import Any

import ml_collections

SOURCES = ('stdlib', 'text', 'tfds')
TOKENIZERS = ('byte', 'char', 'bpe')
WEIGHTS = ('final', 'uniform', 'linear', 'layerskip', 'chosen', 'matrix')
SCHEDULES = (
    'constant', 'linear_warmup', 'cosine_warmup', 'rotate', 'gradual',
    'switch_off')  # pyformat: disable
OPTIMIZERS = ('adamw', 'muon')
NORMALIZATIONS = ('none', 'sum_to_one')
KV_POLICIES = ('recompute', 'copy_state', 'drop')
# Closed range of each signal's score; every score is "higher means exit".
SIGNAL_RANGES = {
    'max_prob': (0.0, 1.0),
    'margin': (0.0, 1.0),
    'entropy': (0.0, 1.0),
    'state_cosine': (-1.0, 1.0),
    'kl': (-math.inf, 0.0),
    'patience': (0.0, math.inf),
}
SPLITS = ('train', 'select', 'test')


class ConfigError(ValueError):
  """A config that cannot run; the message is one line with the fix."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shape and numerics of a decoder-only stack (hashable, for Linen)."""

  num_layers: int
  dim: int
  num_heads: int
  num_kv_heads: int
  mlp_dim: int
  mlp: str
  tie_embeddings: bool
  readout_norm: str
  dropout: float
  rope_base: float
  dtype: str
  remat: bool
  readouts: tuple[int, ...]
  vocab_size: int

  @property
  def head_dim(self) -> int:
    return self.dim // self.num_heads


def model_config(config: Any, vocab_size: int) -> ModelConfig:
  """The frozen model description of a config; no readouts means all layers."""
  fields = dict(config.model)
  fields['readouts'] = tuple(fields['readouts']) or tuple(
      range(1, fields['num_layers'] + 1)
  )
  return ModelConfig(vocab_size=vocab_size, **fields)


def base() -> Any:
  """The locked default config; every field an experiment may change."""
  c = ml_collections.ConfigDict()
  c.seed = 0  # drives initialisation, dropout and data order

  c.data = ml_collections.ConfigDict()
  c.data.source = 'stdlib'  # one of SOURCES
  c.data.path = ()  # text: files, folders or globs; tfds: name or directory
  c.data.select_path = ()  # text: own files for select; () = split documents
  c.data.test_path = ()  # text: own files for test; () = split documents
  c.data.select_fraction = 0.05  # share of the documents for select
  c.data.test_fraction = 0.05  # share of the documents for test
  c.data.train_chars = 0  # use only the first so many characters; 0 = all
  c.data.select_chars = 0  # the same for select
  c.data.test_chars = 0  # the same for test
  c.data.tokenizer = 'byte'  # one of TOKENIZERS
  c.data.vocab_size = 8192  # bpe only; byte and char know their own
  c.data.seq_len = 128  # T: tokens per training and evaluation window

  c.model = ml_collections.ConfigDict()
  c.model.num_layers = 8  # L
  c.model.dim = 128  # D
  c.model.num_heads = 4  # H, divides dim
  c.model.num_kv_heads = 4  # K/V heads, divides num_heads (GQA)
  c.model.mlp_dim = 512  # F
  c.model.mlp = 'gelu'  # or swiglu
  c.model.tie_embeddings = True  # unembedding = embedding transposed
  c.model.readout_norm = 'shared'  # or per_readout: an own RMSNorm for each
  c.model.dropout = 0.0  # on embeddings and on both branches of a layer
  c.model.rope_base = 10000.0  # wavelength base of rotary positions
  c.model.dtype = 'float32'  # compute type; or bfloat16; parameters are fp32
  c.model.remat = False  # recompute activations in the backward pass
  c.model.readouts = ()  # layers where a prediction may be read; () = all

  c.loss = ml_collections.ConfigDict()
  c.loss.weights = 'final'  # one of WEIGHTS
  c.loss.chosen = ()  # weights='chosen': ((layer, weight), ...)
  c.loss.matrix = ()  # weights='matrix': W[S, L] as a tuple of rows
  c.loss.e_scale = 0.2  # weights='layerskip': scale of early layers
  c.loss.normalize = 'sum_to_one'  # one of NORMALIZATIONS
  c.loss.schedule = 'constant'  # one of SCHEDULES, on intermediate weights
  c.loss.schedule_steps = 0  # length of the schedule in updates
  c.loss.rotate_every = 1  # rotate: each readout is on every so many steps
  c.loss.token_fraction = 1.0  # share of tokens for intermediate readouts
  c.loss.exit_threshold = 0.0  # max_prob at which training tokens exit; 0 = off
  c.loss.exit_rows = 0.5  # share of the rows in which they do

  _add_training(c)
  _add_exits(c)
  return c.lock()


def _add_training(c: Any) -> None:
  c.optimizer = ml_collections.ConfigDict()
  c.optimizer.name = 'adamw'  # one of OPTIMIZERS
  c.optimizer.learning_rate = 1e-3  # peak
  c.optimizer.muon_learning_rate = 0.02  # muon: peak of matrices in layers
  c.optimizer.warmup_steps = 100  # linear warm-up
  c.optimizer.final_fraction = 0.1  # cosine decays to this share of the peak
  c.optimizer.b1 = 0.9
  c.optimizer.b2 = 0.95
  c.optimizer.eps = 1e-8
  c.optimizer.weight_decay = 0.1  # on matrices only
  c.optimizer.clip_norm = 1.0  # global gradient norm; 0 = off
  c.optimizer.layer_decay = 1.0  # layer l learns at rate layer_decay^(L - l)

  c.train = ml_collections.ConfigDict()
  c.train.steps = 1000  # optimizer updates
  c.train.batch_size = 8  # B: windows per update
  c.train.accumulate = 1  # micro-batches per update; divides batch_size
  c.train.log_every = 20  # steps between progress lines and metrics
  c.train.eval_every = 200  # steps between evaluations on select
  c.train.checkpoint_every = 200  # steps between checkpoints
  c.train.keep = 2  # newest checkpoints kept, besides the best one
  c.train.patience = 0  # evaluations without a better select loss; 0 = off
  c.train.tensorboard = False  # also write TensorBoard events
  c.train.profile = False  # write a profiler trace of steps 10 to 15


def _add_exits(c: Any) -> None:
  c.evaluate = ml_collections.ConfigDict()
  c.evaluate.batch_size = 16  # windows per evaluation batch
  c.evaluate.select_split = 'select'  # thresholds are chosen here
  c.evaluate.report_split = 'test'  # and reported here
  c.evaluate.max_tokens = 0  # scored per split, spread evenly; 0 = all

  c.exit = ml_collections.ConfigDict()
  c.exit.signals = ('max_prob', 'margin', 'entropy')  # of SIGNAL_RANGES
  c.exit.policies = ('recompute', 'copy_state')  # of KV_POLICIES
  c.exit.thresholds = ml_collections.ConfigDict()  # swept, one scalar each
  c.exit.thresholds.max_prob = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
  c.exit.thresholds.margin = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98)
  c.exit.thresholds.entropy = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
  c.exit.thresholds.state_cosine = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
  c.exit.thresholds.kl = (-1.0, -0.3, -0.1, -0.03, -0.01, -0.003)
  c.exit.thresholds.patience = (1.0, 2.0, 3.0)
  c.exit.search_points = 6  # bisections of the per-readout search; 0 = off
  c.exit.policy = 'copy_state'  # K/V policy of the chosen operating point
  c.exit.max_ppl_ratio = 1.01  # rule: lowest compute within this select ppl
  c.exit.max_compute = 0.0  # or: lowest select ppl within this compute; 0 = off

  c.generate = ml_collections.ConfigDict()
  c.generate.max_new_tokens = 200
  c.generate.temperature = 0.0  # 0 = greedy


def _need(ok: bool, message: str) -> None:
  if not ok:
    raise ConfigError(message)


def _one_of(name: str, value: Any, options: Any) -> None:
  _need(
      value in options, f'{name}={value!r} is unknown; use one of: '
      f'{", ".join(map(str, options))}')


def _positive(config: Any, *names: str) -> None:
  for name in names:
    section, field = name.split('.')
    value = config[section][field]
    _need(value >= 1, f'{name}={value} must be at least 1')


def _validate_model(m: Any) -> None:
  _need(
      m.dim % m.num_heads == 0,
      f'model.dim={m.dim} is not divisible by model.num_heads={m.num_heads}; '
      'change one of them')
  _need(
      m.dim // m.num_heads % 2 == 0,
      f'model.dim={m.dim} / model.num_heads={m.num_heads} is odd; rotary '
      'positions need an even head width')
  _need(
      m.num_heads % m.num_kv_heads == 0,
      f'model.num_heads={m.num_heads} is not divisible by '
      f'model.num_kv_heads={m.num_kv_heads}; change one of them')
  _one_of('model.mlp', m.mlp, ('gelu', 'swiglu'))
  _one_of('model.readout_norm', m.readout_norm, ('shared', 'per_readout'))
  _one_of('model.dtype', m.dtype, ('float32', 'bfloat16'))
  _need(0 <= m.dropout < 1, f'model.dropout={m.dropout} is not in [0, 1)')
  layers = tuple(m.readouts)
  _need(
      all(isinstance(l, int) and 1 <= l <= m.num_layers for l in layers)
      and layers == tuple(sorted(set(layers))),
      f'model.readouts={layers} must be increasing layers from 1 to '
      f'model.num_layers={m.num_layers}')
  _need(
      not layers or layers[-1] == m.num_layers,
      f'model.readouts={layers} must end with model.num_layers='
      f'{m.num_layers}: the last layer always answers')


def _validate_loss(c: Any) -> None:
  loss, last = c.loss, c.model.num_layers
  readouts = tuple(c.model.readouts) or tuple(range(1, last + 1))
  _one_of('loss.weights', loss.weights, WEIGHTS)
  _one_of('loss.schedule', loss.schedule, SCHEDULES)
  _one_of('loss.normalize', loss.normalize, NORMALIZATIONS)
  _need(
      0 < loss.token_fraction <= 1,
      f'loss.token_fraction={loss.token_fraction} is not in (0, 1]')
  for name in ('exit_threshold', 'exit_rows'):
    _need(
        0 <= loss[name] <= 1, f'loss.{name}={loss[name]} is not in [0, 1]')
  if loss.weights == 'chosen':
    for layer, _ in loss.chosen:
      _need(
          layer in readouts, f'loss.chosen names layer {layer}, which is not '
          f'in model.readouts={readouts}; add it there')
    _need(len(loss.chosen) > 0, 'loss.weights=chosen needs loss.chosen')
  if loss.weights == 'matrix':
    rows = [tuple(row) for row in loss.matrix]
    _need(
        len(rows) == 1 and len(rows[0]) == last,
        f'loss.matrix has shape {[len(row) for row in rows]}; it must be 1 '
        f'row (segment) of model.num_layers={last} weights')
    for layer, weight in enumerate(rows[0], 1):
      _need(
          weight == 0 or layer in readouts,
          f'loss.matrix weighs layer {layer} with {weight}, which is not in '
          f'model.readouts={readouts}; add it there')
  if loss.schedule in ('linear_warmup', 'cosine_warmup', 'gradual',
                       'switch_off'):
    _need(
        loss.schedule_steps >= 1,
        f'loss.schedule={loss.schedule} needs loss.schedule_steps >= 1, got '
        f'{loss.schedule_steps}')
  _positive(c, 'loss.rotate_every')


def _validate_exit(c: Any) -> None:
  for signal in c.exit.signals:
    _one_of('exit.signals', signal, SIGNAL_RANGES)
    for threshold in c.exit.thresholds[signal]:
      check_threshold(signal, threshold)
  _need(len(c.exit.policies) > 0, 'exit.policies=() names no K/V policy')
  for policy in c.exit.policies:
    _one_of('exit.policies', policy, KV_POLICIES)
  _need(
      c.exit.policy in c.exit.policies,
      f'exit.policy={c.exit.policy!r} is not in exit.policies='
      f'{tuple(c.exit.policies)}; add it there')
  _need(
      c.exit.max_ppl_ratio >= 1,
      f'exit.max_ppl_ratio={c.exit.max_ppl_ratio} must be at least 1')
  _need(
      c.exit.max_compute >= 0,
      f'exit.max_compute={c.exit.max_compute} must be 0 (off) or positive')
  for name in ('select_split', 'report_split'):
    _one_of(f'evaluate.{name}', c.evaluate[name], SPLITS)
  _need(
      c.evaluate.select_split != c.evaluate.report_split,
      f'evaluate.select_split={c.evaluate.select_split!r} equals '
      f'evaluate.report_split={c.evaluate.report_split!r}: thresholds may not '
      'be reported on the split they were chosen on; use two splits')


def check_threshold(signal: str, threshold: float) -> None:
  """Raises ConfigError unless the threshold can be a score of the signal.

  `+inf` (never) and `-inf` (first readout) are always allowed.
  """
  low, high = SIGNAL_RANGES[signal]
  _need(
      math.isinf(threshold) or low <= threshold <= high,
      f'exit.thresholds.{signal} contains {threshold}, outside the range '
      f'[{low}, {high}] of signal {signal}')


def validate(c: Any) -> None:
  """Raises ConfigError, naming the field and the fix, if `c` cannot run."""
  _one_of('data.source', c.data.source, SOURCES)
  _one_of('data.tokenizer', c.data.tokenizer, TOKENIZERS)
  for name in ('select_fraction', 'test_fraction'):
    value = c.data[name]
    _need(0 < value < 0.5, f'data.{name}={value} is not in (0, 0.5)')
  _positive(
      c, 'data.seq_len', 'model.num_layers', 'model.dim', 'model.num_heads',
      'model.num_kv_heads', 'model.mlp_dim', 'train.steps', 'train.batch_size',
      'train.accumulate', 'train.log_every', 'train.eval_every',
      'train.checkpoint_every', 'train.keep', 'evaluate.batch_size',
      'generate.max_new_tokens')
  _need(
      c.train.batch_size % c.train.accumulate == 0,
      f'train.batch_size={c.train.batch_size} is not divisible by '
      f'train.accumulate={c.train.accumulate}; change one of them')
  _one_of('optimizer.name', c.optimizer.name, OPTIMIZERS)
  _validate_model(c.model)
  _validate_loss(c)
  _validate_exit(c)


def with_argument(c: Any, argument: str) -> Any:
  """Applies what follows the colon in `--config=file.py:argument`.

  `smoke` shrinks any experiment to seconds on a small model and the built-in
  corpus, keeping its method. Raises ConfigError for anything else.
  """
  if not argument:
    return c
  _need(
      argument == 'smoke', f'--config argument {argument!r} is unknown; use '
      ':smoke or nothing')
  c.data.source, c.data.path = 'stdlib', ()
  c.data.select_path = c.data.test_path = ()
  c.data.train_chars, c.data.select_chars, c.data.test_chars = 200_000, 0, 0
  c.data.seq_len = 32
  c.model.dim, c.model.num_heads, c.model.num_kv_heads = 32, 2, 1
  c.model.mlp_dim = 64
  c.train.steps, c.train.batch_size, c.train.accumulate = 20, 4, 1
  c.train.log_every, c.train.eval_every, c.train.checkpoint_every = 5, 10, 10
  c.optimizer.warmup_steps = 5
  c.evaluate.max_tokens, c.exit.search_points = 1024, 2
  c.loss.schedule_steps = min(c.loss.schedule_steps, 10)
  for signal in c.exit.thresholds:
    c.exit.thresholds[signal] = tuple(c.exit.thresholds[signal])[-2:]
  return c
