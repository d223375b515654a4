"""The memo's threshold sweep, trained to convergence on WikiText-2.

  python -m ease_jax.main --config=configs/memo_threshold_sweep.py \
      --workdir=runs/memo \
      --config.data.path="('DIR/train.txt',)" \
      --config.data.select_path="('DIR/valid.txt',)" \
      --config.data.test_path="('DIR/test.txt',)"

Cost: 6 minutes on one core, 30 s of it evaluation. Expect, on test, a
perplexity of 5.41 at full depth (with AdamW 6.87) and 5.80 at 67.5 % of the
compute: means of three seeds, `docs/results.md`.
"""

from ease_jax import config

STEPS_PER_EPOCH = 500_000 // (128 * 32)


def get_config(argument: str = ''):
  c = config.base()
  c.data.source = 'text'
  c.data.path = ('data/wikitext2/train.txt',)
  c.data.select_path = ('data/wikitext2/valid.txt',)
  c.data.test_path = ('data/wikitext2/test.txt',)
  c.data.train_chars = 500_000
  c.data.select_chars = 50_000
  c.data.tokenizer = 'char'
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
  c.optimizer.weight_decay = 0.01
  c.train.steps = 30 * STEPS_PER_EPOCH
  c.train.batch_size = 32
  c.train.eval_every = STEPS_PER_EPOCH
  c.train.checkpoint_every = STEPS_PER_EPOCH

  memo = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
  c.exit.thresholds.max_prob = memo
  c.exit.max_compute = 0.687  # what the memo's point costs
  return config.with_argument(c, argument)
