"""Guarantees: which thresholds keep a limit on text that nobody has seen.

A threshold that loses 0.9 % on the select split may lose 1.1 % elsewhere. Here
a threshold is certified only where the losses of single units (documents, or
windows) leave little doubt, and thresholds are asked in a fixed order, from
the safest on, until one is not certified. Units are taken to be drawn
independently from one source; tokens of a document are not.

Losses are shares of the highest that counts, so that none is above 1. They may
be negative: a unit may gain.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated

import numpy as np
import scipy.special

from ease_jax.checks import OneOf, Range, ReadIf, check_fields, need
from ease_jax.core.signals import SIGNALS

NONE = 'none'  # no risk is limited
DOCUMENT = 'document'
UNITS = (DOCUMENT, 'window')
MOST_UNITS = 2**20  # that are tried to find how many are needed
DIGITS = 24  # binary ones of an upper bound

# (loss_N, limit, delta) -> whether the mean of what losses are drawn from is
# certified to be at most the limit.
Certifies = Callable[[np.ndarray, float, float], bool]


@dataclasses.dataclass(frozen=True)
class Method:
  """A way to certify a limit.

  Attributes:
    certifies: the test of one threshold.
    in_expectation: what is limited is the mean over select splits, not all but
      a share delta of them; losses are then made monotone first.
  """

  certifies: Certifies
  in_expectation: bool = False


def hoeffding_bentkus(mean: float, num: int, limit: float) -> float:
  """P-value of "the mean loss is above the limit" (2110.01052).

  Args:
    mean: of the losses, each from 0 to 1.
    num: of losses.
    limit: above 0 and below 1.
  """
  if mean >= limit:
    return 1.0
  log_ratio = scipy.special.rel_entr(mean, limit)
  log_ratio += scipy.special.rel_entr(1 - mean, 1 - limit)
  hoeffding = math.exp(-num * log_ratio)
  tail = scipy.special.bdtr(math.ceil(num * mean), num, limit)
  return min(hoeffding, math.e * float(tail))


def capital(loss_N: np.ndarray, limit: float, delta: float) -> float:
  """Log of what bets against "the mean loss is above the limit" win at best.

  Were it true, a capital of 1 would ever grow to 1 / delta with a probability
  of delta at most (2010.09686; bets as in 2405.20915).

  Args:
    loss_N: in an order that does not depend on them, each at most 1.
    limit: above 0.
    delta: at which bets are aimed.
  """
  num = len(loss_N)
  count_N = np.arange(2, num + 2)
  mean_N = (0.5 + np.cumsum(loss_N)) / count_N
  variance_N = (0.25 + np.cumsum((loss_N - mean_N) ** 2)) / count_N

  # A bet sees only what was before it.
  before_N = np.concatenate([[0.25], variance_N[:-1]])
  bet_N = np.sqrt(2 * math.log(1 / delta) / (num * before_N))
  bet_N = np.minimum(bet_N, 1.0)
  return float(np.cumsum(np.log1p(-bet_N * (loss_N - limit))).max())


def _by_hoeffding_bentkus(
  loss_N: np.ndarray, limit: float, delta: float
) -> bool:
  # Losses below 0 count as 0, which can only make the test fail.
  mean = float(np.maximum(loss_N, 0).mean())
  return hoeffding_bentkus(mean, len(loss_N), limit) <= delta


def _by_betting(loss_N: np.ndarray, limit: float, delta: float) -> bool:
  return capital(loss_N, limit, delta) >= math.log(1 / delta)


def _by_conformal(loss_N: np.ndarray, limit: float, delta: float) -> bool:
  """One more unit, of the highest loss, would not break it (2208.02814)."""
  del delta
  return float(loss_N.sum() + 1) / (len(loss_N) + 1) <= limit


METHODS: dict[str, Method] = {
  'betting': Method(_by_betting),
  'hoeffding_bentkus': Method(_by_hoeffding_bentkus),
  'conformal': Method(_by_conformal, in_expectation=True),
}
PROBABLE = tuple(n for n, m in METHODS.items() if not m.in_expectation)


def worst_so_far(loss_JxN: np.ndarray) -> np.ndarray:
  """Each unit's highest loss at a threshold or at a safer one, [J, N].

  The safest is full depth, which loses 0. Made of single losses, not of their
  mean: only that keeps conformal risk control valid where a higher threshold
  may lose more (2208.02814).
  """
  return np.maximum.accumulate(np.maximum(loss_JxN, 0), 0)


def tested(loss_JxN: np.ndarray, method: Method) -> np.ndarray:
  """The losses that a method's test looks at, [J, N]."""
  return worst_so_far(loss_JxN) if method.in_expectation else loss_JxN


def certified(
  loss_JxN: np.ndarray, limit: float, delta: float, method: Method
) -> int:
  """How many thresholds, from the safest on, keep the limit.

  The first that is not certified ends it, whatever comes after: no share of
  delta is spent on asking several (fixed-sequence testing). All that are
  counted keep the limit together, with probability 1 - delta.

  Args:
    loss_JxN: of each unit at each threshold, from the safest threshold on.
    limit: of the mean loss.
    delta: chance that one of them does not keep it.
    method: of METHODS.
  """
  for j, loss_N in enumerate(tested(loss_JxN, method)):
    if not method.certifies(loss_N, limit, delta):
      return j
  return len(loss_JxN)


def upper_bound(loss_N: np.ndarray, delta: float, method: Method) -> float:
  """The lowest limit that a threshold is certified for; 1 if there is none."""
  low = 0.0
  high = 1.0
  for _ in range(DIGITS):
    middle = (low + high) / 2
    if method.certifies(loss_N, middle, delta):
      high = middle
    else:
      low = middle
  return high


def least_units(limit: float, delta: float, method: Method) -> int | None:
  """How many units certify a limit if none of them loses anything.

  None where more than MOST_UNITS would be needed.
  """

  def enough(num: int) -> bool:
    return method.certifies(np.zeros(num), limit, delta)

  high = 1
  while not enough(high):
    high *= 2
    if high > MOST_UNITS:
      return None

  low = high // 2  # not enough
  while high - low > 1:
    middle = (low + high) // 2
    if enough(middle):
      high = middle
    else:
      low = middle
  return high


@dataclasses.dataclass(frozen=True)
class Risk:
  """What a guarantee limits: the mean over units of a loss per token.

  Attributes:
    amount: loss -> how it is told to people, and what `epsilon` is one of.
    loss: the other way round.
    capped: whether it has no highest value of its own, and gets one.
    words: what is limited, for people.
  """

  amount: Callable[[float], float]
  loss: Callable[[float], float]
  capped: bool
  words: str


RISKS: dict[str, Risk] = {
  # Nats more than at full depth; told as a rise of perplexity.
  'perplexity': Risk(math.expm1, math.log1p, True, 'rise of perplexity'),
  # Tokens whose likeliest prediction is not that of full depth.
  'disagreement': Risk(
    float, float, False, 'share of predictions that are not those of full depth'
  ),
}
_READ = ReadIf('risk', tuple(RISKS))
_CAPPED = ReadIf('risk', tuple(n for n, r in RISKS.items() if r.capped))
Chance = Annotated[float, Range(0, 1, above=True, below=True)]


@dataclasses.dataclass(frozen=True)
class GuaranteeSpec:
  """Section `exit.guarantee`: what is promised, and how sure it is.

  Attributes:
    risk: of RISKS; 'none' = nothing is promised.
    epsilon: what the risk is at most.
    delta: chance that the promise fails.
    method: of METHODS.
    signal: whose thresholds are asked, from the highest on.
    unit: what is drawn independently: whole documents, or windows.
    cap: perplexity: a unit whose rise is higher counts as one of this.
  """

  risk: Annotated[str, OneOf((NONE, *RISKS))]
  epsilon: Annotated[Chance, _READ]
  delta: Annotated[Chance, ReadIf('method', PROBABLE), _READ]
  method: Annotated[str, OneOf(METHODS), _READ]
  signal: Annotated[str, OneOf(SIGNALS), _READ]
  unit: Annotated[str, OneOf(UNITS), _READ]
  cap: Annotated[float, Range(0, 1e6, above=True), _CAPPED]

  def __post_init__(self):
    check_fields('exit.guarantee', self)
    need(
      not self.on or not RISKS[self.risk].capped or self.cap > self.epsilon,
      f'exit.guarantee.cap={self.cap} is not above exit.guarantee.epsilon='
      f'{self.epsilon}: no unit would count as one that breaks the promise; '
      'raise cap',
    )

  def check(
    self, swept: Mapping[str, tuple[float, ...]], max_compute: float
  ) -> None:
    """Raises ConfigError unless it has thresholds to ask, and alone chooses.

    Args:
      swept: signal -> the thresholds that are tried.
      max_compute: of section `exit`.
    """
    if not self.on:
      return
    need(
      self.signal in swept,
      f'exit.guarantee.signal={self.signal!r} is not in exit.signals='
      f'{tuple(swept)}, which are swept; add it there',
    )
    need(
      len(swept[self.signal]) > 0,
      f'exit.thresholds.{self.signal}=() leaves exit.guarantee nothing to ask; '
      'add some',
    )
    need(
      not max_compute,
      f'exit.max_compute={max_compute:g} and exit.guarantee.risk='
      f'{self.risk!r} would both choose the operating point; set one of them '
      'to 0 or none',
    )

  @classmethod
  def from_config(cls, section: Mapping[str, object]) -> 'GuaranteeSpec':
    """The spec of section `exit.guarantee`."""
    return cls(**section)  # pyright: ignore

  def __str__(self) -> str:
    words = RISKS[self.risk].words
    return f'lowest compute certified for a {words} <= {self.epsilon:.3g}'

  @property
  def on(self) -> bool:
    """Whether anything is promised."""
    return self.risk != NONE

  @property
  def highest(self) -> float:
    """Loss of a unit that counts as 1."""
    risk = RISKS[self.risk]
    return risk.loss(self.cap) if risk.capped else 1.0

  @property
  def limit(self) -> float:
    """`epsilon` as a share of the highest loss."""
    return RISKS[self.risk].loss(self.epsilon) / self.highest

  def amount(self, share: float) -> float:
    """A share of the highest loss, as `epsilon` is told."""
    return RISKS[self.risk].amount(share * self.highest)
