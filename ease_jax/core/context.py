"""How many keys a token sees, of which the price of attention follows."""

from typing import NamedTuple

import numpy as np

from ease_jax.core.spec import CAUSAL, ModelConfig


def mean_context(seq_len: int, attention: str = CAUSAL) -> float:
  """Keys that a token sees on average in a window of `seq_len` tokens."""
  if attention == CAUSAL:
    return (seq_len + 1) / 2
  return float(seq_len)


class Context(NamedTuple):
  """Keys that a token sees on average.

  Attributes:
    everywhere: in layers that see all tokens before it.
    near: in layers that see the last ones alone.
  """

  everywhere: float
  near: float

  def of(self, window: int) -> float:
    """In a layer that sees so many; 0 = all."""
    return self.near if window else self.everywhere


def seen(cfg: ModelConfig, seq_len: int, before: int = 0) -> Context:
  """What tokens of a window see, each as far as it looks.

  Args:
    cfg: a model's shape.
    seq_len: tokens of the window.
    before: tokens before them, which they see as well.
  """
  everywhere = before + mean_context(seq_len, cfg.attention)
  window = cfg.block.attention.window
  if not window:
    return Context(everywhere, everywhere)
  keys_T = before + np.arange(1, seq_len + 1)
  return Context(everywhere, float(np.minimum(keys_T, window).mean()))
