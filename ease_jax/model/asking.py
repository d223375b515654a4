"""Which signals tokens of a model may exit by."""

from ease_jax.checks import need
from ease_jax.core.grid import Grid
from ease_jax.core.policies import ExitRule
from ease_jax.core.spec import ModelConfig


def check_rule(cfg: ModelConfig, grid: Grid, rule: ExitRule) -> None:
  """Raises ConfigError if tokens of a model cannot exit like this.

  Args:
    cfg: its shape.
    grid: its cells.
    rule: how they would.
  """
  signal = rule.signal
  asked_for = getattr(cfg.options, 'coda', None)
  coda = f'model.{cfg.body}.coda={asked_for}' if asked_for else 'a coda'
  need(
    signal.gate is None or signal.name in cfg.gates,
    f'exit signal {signal.name!r} is learned, and this model has not '
    'learned it; add it to loss.gates and train, or use another signal',
  )
  asks_head = signal.needs_head(0) or signal.listed
  need(
    not (asks_head and grid.coda),
    f'exit signal {signal.name!r} looks at logits, which a model with {coda} '
    'has only where a token is answered; use a signal that looks at states',
  )
  need(
    not signal.listed or cfg.frequent_tokens > 0,
    f'exit signal {signal.name!r} asks about the most frequent tokens, and '
    f'model.frequent_tokens={cfg.frequent_tokens} counts none; raise it, '
    'give train.fit_tokens and train.init_from, or use another signal',
  )
  vocab_size = cfg.vocab_size  # 1: not known yet
  need(
    vocab_size == 1 or signal.candidates <= vocab_size,
    f'exit signal {signal.name!r} looks at {signal.candidates} tokens, and '
    f'there are {vocab_size}; use another signal',
  )
  rule.policy.check(grid)
