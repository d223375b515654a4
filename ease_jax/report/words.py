"""How certain a sentence is: one manner for gains and for losses.

A difference comes with its 95 % interval. It is called higher or lower where
the interval leaves out no difference at all, and is not told apart elsewhere.
There are no p-values: with three seeds, allowing for the number of comparisons
would hide differences of a quarter, and leaving it out for one direction would
flatter the other. What intervals leave open, everybody sees.
"""

from ease_jax.evaluate.windows import Interval
from ease_jax.report import html

SAME = 0.0005  # a change that is displayed as nothing is none
NOT_TOLD_APART = 'not told apart'


def change(ratio: float, interval: Interval | None) -> str:
  """A change in percent with its interval: `+0.8 % [0.6, 1.0]`.

  Args:
    ratio: 1.008.
    interval: of the ratio; None where there is none.
  """
  text = f'{100 * (ratio - 1):+.1f}{html.NARROW_SPACE}%'
  if interval is None:
    return f'{text} (no interval)'
  low, high = (100 * (value - 1) for value in (interval.low, interval.high))
  return f'{text} [{low:+.1f}, {high:+.1f}]'


def direction(ratio: float, interval: Interval | None) -> str:
  """`higher`, `lower`, `the same`, or `not told apart`.

  Args:
    ratio: of two perplexities.
    interval: of the ratio; None where there is none.
  """
  if interval is None or not interval.excludes(1):
    return NOT_TOLD_APART
  if abs(ratio - 1) < SAME:
    return 'the same'
  return 'higher' if ratio > 1 else 'lower'


def within(value: float, interval: Interval | None) -> str:
  """A share with its interval: `74.5 % [73.9, 75.0]`."""
  text = html.percent(value)
  if interval is None:
    return text
  return f'{text} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]'


def ppl(value: float, interval: Interval | None) -> str:
  """A perplexity with its interval: `3.150 [3.09, 3.21]`."""
  text = html.perplexity(value)
  if interval is None:
    return text
  return f'{text} [{interval.low:.4g}, {interval.high:.4g}]'


def seeds(number: int) -> str:
  """What an interval of so many seeds is over."""
  if number == 1:
    return 'one seed: over windows alone'
  return f'over {number} seeds and windows'
