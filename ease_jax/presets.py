"""Settings that several configs share."""

from typing import Any

from ease_jax import config


def small() -> Any:
  """Byte level on the standard library, minutes on two cores.

  8 layers of width 96 (0.8 M parameters), 1,200 updates of 16 windows of 128
  bytes (2.5 MB of text), Muon. `docs/lab_notes.md` tells how it was found.
  """
  c = config.base()
  c.model.num_layers, c.model.dim, c.model.mlp_dim = 8, 96, 384
  c.model.num_heads, c.model.num_kv_heads = 2, 1
  c.model.readouts = (2, 3, 5, 8)
  c.optimizer.name = 'muon'
  c.optimizer.learning_rate, c.optimizer.muon_learning_rate = 0.05, 0.03
  c.optimizer.warmup_steps, c.optimizer.final_fraction = 50, 0.05
  c.optimizer.weight_decay = 0.01
  c.train.steps, c.train.batch_size = 1200, 16
  c.evaluate.max_tokens = 32_768
  c.train.eval_every = c.train.checkpoint_every = 400
  # Entropy found nearly the same points and doubled the time of the sweep.
  c.exit.signals, c.exit.search_points = ('max_prob',), 4
  c.exit.thresholds.max_prob = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
  return c


def wikitext2(folder: str) -> Any:
  """Characters of WikiText-2 on the small models of the research memo.

  One to eight layers of width 64, windows of 64 characters, 16 in a batch,
  AdamW. A config still says how much text, which body and how many steps.

  Args:
    folder: holds train.txt, valid.txt and test.txt.
  """
  c = config.base()
  c.data.source, c.data.tokenizer, c.data.seq_len = 'text', 'char', 64
  c.data.path = (f'{folder}/train.txt',)
  c.data.select_path = (f'{folder}/valid.txt',)
  c.data.test_path = (f'{folder}/test.txt',)
  c.data.select_chars, c.data.test_chars = 50_000, 50_000
  c.model.dim, c.model.mlp_dim = 64, 256
  c.model.num_heads, c.model.num_kv_heads = 4, 4
  c.optimizer.weight_decay = 0.01
  c.train.batch_size, c.evaluate.batch_size = 16, 32
  c.exit.signals = ('max_prob',)
  return c
