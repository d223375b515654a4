"""Settings of the research memo: small models on characters of WikiText-2."""

from ease_jax import config
from ease_jax.config import Config
from ease_jax.presets.recurrence import hrm, refinement


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


def memo(folder: str, num_layers: int) -> Config:
  """A standard model as the research memo trains it.

  20,000 characters, a constant rate, until five epochs bring no better loss on
  5,000 characters.

  Args:
    folder: as in `wikitext2`.
    num_layers: L.
  """
  c = wikitext2(folder)
  c.data.train_chars = 20_000
  c.data.select_chars = 5_000
  c.model.num_layers = num_layers
  c.model.readouts = (num_layers,)
  c.optimizer.warmup_steps = 1
  c.optimizer.final_fraction = 1.0
  epoch = c.data.train_chars // (c.train.batch_size * c.data.seq_len)
  c.train.steps = 60 * epoch  # more than any run takes
  c.train.eval_every = epoch
  c.train.checkpoint_every = epoch
  c.train.patience = 5
  c.exit.thresholds.max_prob = (0.5, 0.7, 0.9)
  c.exit.search_points = 0
  return c


def memo_irt(folder: str, num_layers: int) -> Config:
  """`memo` whose layers run twice, an update after each run (IRT)."""
  c = refinement(memo(folder, num_layers), segments=2, num_layers=num_layers)
  c.model.refine.carry_init = 'learned'
  c.loss.weights = 'segment_ends'
  c.train.updates = 'per_segment'
  return c


def memo_hrm(folder: str, num_layers: int) -> Config:
  """`memo` with HRM's two levels of so many layers each."""
  c = hrm(memo(folder, num_layers), segments=2, num_layers=num_layers)
  c.train.updates = 'per_segment'
  return c


def origin(c: Config) -> Config:
  """A copy with the layer of the origin code: post-norm, a gated MLP."""
  c = c.copy_and_resolve_references()
  c.model.block.norm = 'post'
  c.model.block.mlp.kind = 'swiglu'
  return c
