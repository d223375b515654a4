"""Quickstart: byte-level deep supervision on the standard library's source.

  make quickstart
  python -m ease_jax.main --config=configs/quickstart.py \
      --workdir=runs/quickstart
"""

from ease_jax import config


def get_config(argument: str = ''):
  c = config.base()
  c.model.readouts = (2, 4, 6, 8)
  c.model.dim, c.model.mlp_dim = 64, 256
  c.model.num_heads, c.model.num_kv_heads = 2, 1
  c.loss.weights = 'linear'
  c.optimizer.learning_rate = 6e-3
  c.optimizer.warmup_steps = 50
  c.train.steps = 1200
  c.train.batch_size = 16
  c.evaluate.max_tokens = 32_768
  c.exit.signals = ('max_prob', 'entropy')
  return config.with_argument(c, argument)
