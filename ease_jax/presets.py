"""Settings that several configs share."""

import copy

from ease_jax import config
from ease_jax.config import Config


def small() -> Config:
  """Byte level on the standard library, minutes on two cores.

  8 layers of width 96 (0.8 M parameters), 1,200 updates of 16 windows of 128
  bytes (2.5 MB of text), Muon. `docs/lab_notes.md` tells how it was found.
  """
  c = config.base()
  c.model.num_layers = 8
  c.model.dim = 96
  c.model.block.mlp.dim = 384
  c.model.block.attention.num_heads = 2
  c.model.block.attention.num_kv_heads = 1
  c.model.readouts = (2, 3, 5, 8)

  c.optimizer.name = 'muon'
  c.optimizer.learning_rate = 0.05
  c.optimizer.muon_learning_rate = 0.03
  c.optimizer.warmup_steps = 50
  c.optimizer.final_fraction = 0.05
  c.optimizer.weight_decay = 0.01

  c.train.steps = 1200
  c.train.batch_size = 16
  c.train.eval_every = 400
  c.train.checkpoint_every = 400
  c.evaluate.max_tokens = 32_768

  # Entropy found nearly the same points and doubled the time of the sweep.
  c.exit.signals = ('max_prob',)
  c.exit.search_points = 4
  c.exit.thresholds.max_prob = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
  return c


def exits() -> Config:
  """`small`, trained to be read after layers 2, 3, 5 and 8, and on exits."""
  c = small()
  c.loss.weights = 'chosen'
  c.loss.chosen = ((2, 0.15), (3, 0.3), (5, 0.15), (8, 0.4))
  c.loss.exit_threshold = 0.8
  return c


def quickstart() -> Config:
  """`exits` with a gate at each readout that learns what going on would bring.

  40 updates fewer pay for the training of the gates.
  """
  c = exits()
  c.loss.gates = ('gain',)
  c.exit.signals = ('max_prob', 'gain')

  c.train.steps = 1160
  c.train.eval_every = 290
  c.train.checkpoint_every = 290
  return c


def mod() -> Config:
  """`exits` with Mixture-of-Depths on every other layer (2404.02258)."""
  c = exits()
  c.model.router = 'mod'
  return c


def mor() -> Config:
  """`exits` with Mixture-of-Recursions (2507.10524).

  Of eight layers the middle six are two, three times: readouts stand within
  the first run, behind the first two, and at the end.
  """
  c = exits()
  c.model.body = 'cycle'
  c.model.router = 'mor'
  return c


def layerskip() -> Config:
  """`small` as LayerSkip trains from scratch, and drafts (2404.16710).

  Rows skip layers, more of them deeper and later on; one early readout after
  the other has a loss beside the last.
  """
  c = small()
  c.model.readouts = ()  # all layers
  c.train.layer_dropout = 0.2
  c.train.layer_dropout_schedule = 'rising'
  c.loss.weights = 'layerskip'
  c.loss.schedule = 'rotate'
  c.loss.rotate_every = 7
  c.generate.method = 'speculative'
  c.generate.draft = (1, 4, 0.0)  # timing all ways of seven readouts takes long
  return c


def standard(layers: int) -> Config:
  """`small` with so many layers and the final loss alone, read at its end."""
  c = small()
  c.model.num_layers = layers
  c.model.readouts = (layers,)
  c.loss.weights = 'final'
  return c


def brief(c: Config) -> Config:
  """A copy of a `small` one for studies: narrower, and trained for minutes.

  Width 64, 360 updates, 16,384 tokens to evaluate on, one K/V policy.
  """
  c = copy.deepcopy(c)
  c.model.dim = 64
  c.model.block.mlp.dim = 256
  c.train.steps = 360
  c.train.eval_every = 120
  c.train.checkpoint_every = 120
  c.evaluate.max_tokens = 16_384
  c.exit.policies = ('copy_state',)
  return c


def gates(c: Config, source: str) -> Config:
  """A copy that learns gates on a finished run of `c`, which is kept.

  Args:
    c: config of the run.
    source: its directory.
  """
  c = copy.deepcopy(c)
  c.train.init_from = source
  c.train.freeze = 'model'
  c.train.steps = 600
  c.train.eval_every = 300
  c.train.checkpoint_every = 300
  c.optimizer.name = 'adamw'
  c.optimizer.learning_rate = 3e-3
  c.optimizer.muon_learning_rate = config.base().optimizer.muon_learning_rate
  c.optimizer.weight_decay = 0.0
  c.loss.gates = ('calm', 'dat', 'gain', 'ouro')
  c.exit.signals = ('max_prob', 'state_change', *c.loss.gates)
  c.exit.policies = ('copy_state',)
  return c


def wikitext2(folder: str) -> Config:
  """Characters of WikiText-2 on the small models of the research memo.

  One to eight layers of width 64, windows of 64 characters, 16 in a batch,
  AdamW. A config still says how much text, which body and how many steps.

  Args:
    folder: holds train.txt, valid.txt and test.txt.
  """
  c = config.base()
  c.data.source = 'text'
  c.data.tokenizer = 'char'
  c.data.seq_len = 64
  c.data.path = (f'{folder}/train.txt',)
  c.data.select_path = (f'{folder}/valid.txt',)
  c.data.test_path = (f'{folder}/test.txt',)
  c.data.select_chars = 50_000
  c.data.test_chars = 50_000

  c.model.dim = 64
  c.model.block.mlp.dim = 256
  c.optimizer.weight_decay = 0.01
  c.train.batch_size = 16
  c.evaluate.batch_size = 32
  c.exit.signals = ('max_prob',)
  return c


def memo_sweep(folder: str) -> Config:
  """The memo's threshold sweep: four layers of width 32, read after 2 and 4.

  500,000 characters of WikiText-2, thirty times; the operating point may cost
  what the memo's best one did, 68.7 % of full depth.

  Args:
    folder: holds train.txt, valid.txt and test.txt.
  """
  steps_per_epoch = 500_000 // (128 * 32)
  c = wikitext2(folder)
  c.data.train_chars = 500_000
  c.data.test_chars = 0
  c.data.seq_len = 128

  c.model.num_layers = 4
  c.model.dim = 32
  c.model.block.mlp.dim = 128
  c.model.block.attention.num_heads = 2
  c.model.block.attention.num_kv_heads = 2
  c.model.readouts = (2, 4)
  c.loss.weights = 'chosen'
  c.loss.chosen = ((2, 0.7), (4, 0.3))

  c.optimizer.name = 'muon'
  c.optimizer.learning_rate = 0.03
  c.optimizer.muon_learning_rate = 0.03
  c.train.steps = 30 * steps_per_epoch
  c.train.batch_size = 32
  c.train.eval_every = steps_per_epoch
  c.train.checkpoint_every = steps_per_epoch

  c.evaluate.batch_size = config.base().evaluate.batch_size
  c.exit.thresholds.max_prob = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
  c.exit.max_compute = 0.687
  return c


def refinement(c: Config, segments: int, num_layers: int) -> Config:
  """A copy with the same layers run several times (IRT)."""
  c = copy.deepcopy(c)
  c.model.body = 'refine'
  c.model.segments = segments
  c.model.num_layers = num_layers
  return c


def repeated(c: Config, segments: int, num_layers: int, own: int) -> Config:
  """A copy whose layers in the middle run several times, as one stack.

  One loss, at the end, and one gradient through all of it. Where layers of
  their own stand behind, only signals that look at states may ask.

  Args:
    c: a config.
    segments: how often they run.
    num_layers: in the middle.
    own: layers before and behind them, each, that run once.
  """
  c = refinement(c, segments, num_layers)
  c.model.readouts = (num_layers,)
  c.model.carry_backprop = segments
  c.model.refine.prelude = own
  c.model.refine.coda = own
  c.model.refine.inject = 'none'
  c.loss.weights = 'final'
  if own:
    c.exit.signals = ('state_change',)
  return c


def recurrent(
  c: Config, segments: int, num_layers: int, own: int = 0
) -> Config:
  """`repeated` as recurrent depth has it: with its input, and a norm.

  The state is normed and meets the input by a projection that starts as the
  input alone; the first state is the input (2604.21106).
  """
  c = repeated(c, segments, num_layers, own)
  c.model.refine.inject = 'concat'
  c.model.refine.carry_init = 'input'
  c.model.refine.carry_norm = True
  return c


def lanes(c: Config, segments: int, num_layers: int, own: int = 0) -> Config:
  """`recurrent` with two lanes between the runs in place of the projection."""
  c = recurrent(c, segments, num_layers, own)
  c.model.refine.inject = 'lanes'
  return c


def middle_repeat(c: Config) -> Config:
  """A copy of six layers that runs eight: 0 1 2 3 2 3 4 5 (parameter-golf)."""
  return repeated(c, segments=2, num_layers=2, own=2)


def hrm(c: Config, segments: int, num_layers: int) -> Config:
  """A copy that is HRM with halting by Q-learning.

  Its states are normed after each sum and start as one fixed vector each, as
  in the official code (2506.21734).
  """
  c = copy.deepcopy(c)
  c.model.body = 'hrm'
  c.model.segments = segments
  c.model.num_layers = num_layers
  c.model.readouts = ()
  c.model.block.norm = 'post'
  c.model.hrm.carry_init = 'fixed'
  c.loss.weights = 'segment_ends'
  c.loss.gates = ('q_halt',)
  return c


def trm(c: Config, segments: int, num_layers: int) -> Config:
  """A copy that is TRM without halting (2510.04871).

  One network updates both states, and gradients reach all of the last cycle.
  """
  c = hrm(c, segments, num_layers)
  c.model.hrm.shared = True
  c.model.hrm.cycle_steps = 3
  c.model.hrm.backprop = 4
  c.loss.gates = ()
  return c


def hrm_text(c: Config, num_layers: int) -> Config:
  """A copy that is HRM-Text (2605.20613), with all five updates that it trains.

  One segment, the input as first high state, pre-norm with a norm on states;
  without the paper's warm-up from two updates to five.
  """
  c = hrm(c, segments=1, num_layers=num_layers)
  c.model.block.norm = 'pre'
  c.model.hrm.cycle_steps = 3
  c.model.hrm.backprop = 5
  c.model.hrm.carry_init = 'input'
  c.model.hrm.carry_norm = True
  c.loss.weights = 'final'
  c.loss.gates = ()
  return c


def huginn(c: Config, segments: int, num_layers: int, own: int) -> Config:
  """A copy with a drawn number of runs from a random state (2502.05171).

  Gradients reach the last half of the runs that the model says.
  """
  c = recurrent(c, segments, num_layers, own)
  c.model.refine.carry_init = 'random'
  c.model.carry_backprop = max(1, segments // 2)
  c.train.runs = 'drawn'
  return c


def ouro(c: Config, segments: int, num_layers: int) -> Config:
  """A copy whose runs a learned distribution weighs (2510.25741).

  Its first stage: the loss that the distribution expects, less its entropy.
  """
  c = recurrent(c, segments, num_layers)
  c.loss.weights = 'segment_ends'
  c.loss.gates = ('ouro',)
  c.loss.gate_weight = 1.0
  c.loss.gate_weighs = True
  c.exit.signals = ('max_prob', 'ouro')
  return c
