"""A run of seconds with the method of a long one: what `:smoke` changes."""

from typing import Any

CHARS = 200_000  # of the training split that are kept


def shrink(c: Any) -> None:
  """Shrinks the model, the text and the steps of a config, in place."""
  # Less of the text is read; of prepared tokens, what is needed is anyway.
  if c.data.source != 'tokens':
    c.data.train_chars = min(c.data.train_chars or CHARS, CHARS)
  c.data.seq_len = min(c.data.seq_len, 32)

  c.model.dim = 32
  c.model.block.attention.num_heads = 2
  c.model.block.attention.num_kv_heads = 1
  c.model.block.mlp.dim = 64

  c.train.steps = 20
  c.train.batch_size = 4
  c.train.accumulate = 1
  c.train.log_every = 5
  c.train.eval_every = 10
  c.train.checkpoint_every = 10
  c.optimizer.warmup_steps = 5
  c.loss.schedule_steps = min(c.loss.schedule_steps, 10)

  c.evaluate.max_tokens = 1024
  c.evaluate.speed_tokens = min(c.evaluate.speed_tokens, 64)
  c.exit.search_points = 2
  for signal in c.exit.signals:
    c.exit.thresholds[signal] = tuple(c.exit.thresholds[signal])[-2:]
