"""Every field of every experiment, and its default.

A config file calls `base()`, changes fields and returns the result. The base
is locked, so that a mistyped field is an error and never a silent default.
`validation.validate` is called once, before anything expensive happens.
"""

import dataclasses
import math
from typing import Any

import ml_collections

from ease_jax.checks import ConfigError as ConfigError

SOURCES = ('stdlib', 'text', 'tfds')
TOKENIZERS = ('byte', 'char', 'bpe')
BODIES = ('stack', 'refine', 'hrm')
CARRY_INITS = ('zeros', 'learned', 'fixed', 'random')
CARRY_INJECTS = ('add', 'concat', 'gate')
UPDATES = ('joint', 'per_segment')
WEIGHTS = (
  'final',
  'segment_ends',
  'uniform',
  'linear',
  'layerskip',
  'chosen',
  'matrix',
)
SCHEDULES = (
  'constant',
  'linear_warmup',
  'cosine_warmup',
  'rotate',
  'gradual',
  'switch_off',
)
OPTIMIZERS = ('adamw', 'muon')
NORMALIZATIONS = ('none', 'sum_to_one')
METHODS = ('exits', 'full', 'speculative')  # of generation
KV_POLICIES = ('recompute', 'copy_state', 'drop', 'latest')
# Closed range of each signal's score; every score is "higher means exit".
SIGNAL_RANGES = {
  'max_prob': (0.0, 1.0),
  'margin': (0.0, 1.0),
  'entropy': (0.0, 1.0),
  'state_cosine': (-1.0, 1.0),
  'kl': (-math.inf, 0.0),
  'patience': (0.0, math.inf),
  'q_halt': (-math.inf, math.inf),
}
SPLITS = ('train', 'select', 'test')


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """Shape and numerics of a body on the grid (hashable, for Linen)."""

  body: str
  segments: int
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
  block_norm: str
  carry_init: str
  carry_inject: str
  carry_backprop: int
  cycles: int
  cycle_steps: int
  vocab_size: int

  @property
  def head_dim(self) -> int:
    return self.dim // self.num_heads

  @property
  def num_blocks(self) -> int:
    """Layers with parameters of their own; hrm has two modules."""
    return self.num_layers * (2 if self.body == 'hrm' else 1)

  @property
  def segment_depth(self) -> int:
    """Layers that one segment runs a token through."""
    if self.body == 'hrm':
      return self.cycles * (self.cycle_steps + 1) * self.num_layers
    return self.num_layers

  @property
  def depth(self) -> int:
    """Layers that the whole unrolled model runs a token through."""
    return self.segments * self.segment_depth

  @property
  def cells(self) -> tuple[tuple[int, int], ...]:
    """(segment, layer) of the K readouts in order of cost."""
    segments = range(1, self.segments + 1)
    return tuple((s, l) for s in segments for l in self.readouts)

  @property
  def depth_K(self) -> tuple[int, ...]:
    """Layers that a token ran through on reaching each readout."""
    end = self.segment_depth - self.num_layers  # hrm reads at its end only
    return tuple((s - 1) * self.segment_depth + end + l for s, l in self.cells)


def model_config(config: Any, vocab_size: int) -> ModelConfig:
  """The frozen model description of a config."""
  fields: dict[str, Any] = dict(config.model)
  fields['readouts'] = readouts(config.model)
  return ModelConfig(vocab_size=vocab_size, **fields)


def readouts(model: Any) -> tuple[int, ...]:
  """Layers of a segment that can be read; none named means all.

  The states of `hrm` mean something at the end of a segment only.
  """
  first = model.num_layers if model.body == 'hrm' else 1
  return tuple(model.readouts) or tuple(range(first, model.num_layers + 1))


def base() -> Any:
  """The locked default config; every field an experiment may change."""
  c = ml_collections.ConfigDict()
  c.seed = 0  # drives initialisation, dropout and data order

  c.data = ml_collections.ConfigDict()
  c.data.task = 'language'  # what is learned, one of data.TASKS
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
  c.model.body = 'stack'  # one of BODIES
  c.model.segments = 1  # S: passes through the body; stack has one
  c.model.num_layers = 8  # L: layers of a segment; hrm: of each module
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
  c.model.block_norm = 'pre'  # norm before each branch; or post: after its sum
  c.model.carry_init = 'zeros'  # refine, hrm: first state; of CARRY_INITS
  c.model.carry_inject = 'add'  # refine: how it meets the input; CARRY_INJECTS
  c.model.carry_backprop = 1  # last segments that losses reach through; 1 = own
  c.model.cycles = 2  # hrm: N updates of the high state per segment
  c.model.cycle_steps = 2  # hrm: T updates of the low state in each of them

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
  c.loss.halt_weight = 0.5  # hrm: of the Q-learning that decides when to stop
  c.loss.halt_exploration = 0.1  # hrm: chance that a token must go on for long

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
  c.train.steps = 1000  # batches, one update each
  c.train.updates = 'joint'  # or per_segment: one update per batch and segment
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
  c.evaluate.segments = 0  # perplexity after 1 to so many; 0 = twice model's
  c.evaluate.speed_tokens = 1024  # decoded on the clock at each point; 0 = off

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
  c.exit.thresholds.q_halt = (-2.0, -1.0, 0.0, 1.0, 2.0)
  c.exit.search_points = 6  # bisections of the per-readout search; 0 = off
  c.exit.policy = 'copy_state'  # K/V policy of the chosen operating point
  c.exit.max_ppl_ratio = 1.01  # rule: lowest compute within this select ppl
  c.exit.max_compute = 0.0  # or: lowest select ppl within this compute; 0 = off

  c.generate = ml_collections.ConfigDict()
  c.generate.method = 'exits'  # or full: none; speculative: none, with drafts
  c.generate.draft = ()  # readout, length, threshold; () = the fastest one
  c.generate.max_new_tokens = 200
  c.generate.temperature = 0.0  # 0 = greedy
  c.generate.seed = 0  # of what is drawn
  c.generate.top_k = 0  # draw from so many most likely tokens; 0 = all
  c.generate.top_p = 1.0  # draw from the fewest that hold this probability
  c.generate.prefill = 'exits'  # prompt tokens exit too; or full: they do not


def with_argument(c: Any, argument: str) -> Any:
  """Applies what follows the colon in `--config=file.py:argument`.

  `smoke` shrinks any experiment to seconds on a small model and the built-in
  corpus, keeping its method. Raises ConfigError for anything else.
  """
  if not argument:
    return c
  if argument != 'smoke':
    raise ConfigError(
      f'--config argument {argument!r} is unknown; use :smoke or nothing'
    )
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
  c.evaluate.speed_tokens = 64
  c.loss.schedule_steps = min(c.loss.schedule_steps, 10)
  for signal in c.exit.thresholds:
    c.exit.thresholds[signal] = tuple(c.exit.thresholds[signal])[-2:]
  return c
