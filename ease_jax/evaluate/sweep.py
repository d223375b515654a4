"""The sweep: every signal, threshold and policy, and the chosen point.

Thresholds come from the config (one scalar for all readouts) and from a
search on the select split (one per readout). The operating point is chosen
on the select split by the config's rule and reported on the other one.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from ease_jax.config import SIGNAL_RANGES, ConfigError
from ease_jax.core import costs
from ease_jax.data import Corpus, eval_batches
from ease_jax.evaluate import passes
from ease_jax.evaluate.thresholds import search_thresholds
from ease_jax.model.exits import ExitSpec


class Point(NamedTuple):
  """One setting of the exits; a scalar stands for all readouts."""

  spec: ExitSpec
  threshold: float | tuple[float, ...] | None  # None = exits off

  def threshold_K(self, num: int) -> np.ndarray:
    """One for each of so many readouts.

    Raises:
      ConfigError: there are fewer or more.
    """
    value = np.inf if self.threshold is None else self.threshold
    if np.shape(value) not in ((), (num,)):
      raise ConfigError(
        f'exit thresholds {value} are {np.size(value)}; the model has {num} '
        'readouts; give one for each, or one number'
      )
    return np.broadcast_to(np.asarray(value, np.float32), (num,))

  def as_json(self) -> Any:
    """Finite numbers only: "never" is null."""
    if not isinstance(self.threshold, tuple):
      return self.threshold
    *early, _ = self.threshold
    return [None if math.isinf(t) else t for t in early] + [None]


@dataclasses.dataclass(frozen=True)
class Rule:
  """What makes one row of the select split the operating point.

  Attributes:
    max_ppl_ratio: lowest compute within this many times the full perplexity;
    max_compute: or, unless 0, lowest perplexity within this compute.
  """

  max_ppl_ratio: float
  max_compute: float

  @classmethod
  def from_config(cls, config: Any) -> 'Rule':
    return cls(config.exit.max_ppl_ratio, config.exit.max_compute)

  def __str__(self) -> str:
    if self.max_compute:
      return f'lowest select ppl at compute <= {self.max_compute:g}'
    return f'lowest compute with select ppl <= {self.max_ppl_ratio:g} x full'

  def allows(self, row: dict[str, Any], full_ppl: float) -> bool:
    if self.max_compute:
      return row['compute'] <= self.max_compute
    return row['ppl'] <= self.max_ppl_ratio * full_ppl

  def wants_more_exits(self, row: dict[str, Any], full_ppl: float) -> bool:
    """Whether the best point has a higher price of compute than this one."""
    return self.allows(row, full_ppl) != bool(self.max_compute)

  def choose(self, rows: list[dict[str, Any]], full_ppl: float) -> int:
    """Index of the best row.

    Raises:
      ConfigError: no row is within `max_compute`.
    """
    allowed = [i for i, row in enumerate(rows) if self.allows(row, full_ppl)]
    if not allowed:
      raise ConfigError(
        f'exit.max_compute={self.max_compute:g} is below the cheapest point '
        f'of the sweep, {min(row["compute"] for row in rows):.3f}; raise it '
        'or add lower exit.thresholds'
      )
    best = 'ppl' if self.max_compute else 'compute'
    return min(allowed, key=lambda i: rows[i][best])


class Split:
  """A split of the corpus with its dump; evaluates points on it."""

  def __init__(
    self,
    name: str,
    config: Any,
    model: Any,
    params: Any,
    corpus: Corpus,
    max_tokens: int,
  ):
    self.name, self.model, self.params = name, model, params
    self.token_bytes = corpus.tokenizer.token_bytes
    self.batches = lambda: eval_batches(
      corpus.splits[name],
      config.data.seq_len,
      config.evaluate.batch_size,
      max_tokens,
    )
    self.dump = passes.grid_dump(
      model, params, self.batches, tuple(config.exit.signals)
    )

  def trace(self, point: Point) -> passes.Trace:
    threshold_K = point.threshold_K(len(self.model.cfg.cells))
    return passes.trace(
      self.model, self.params, self.batches, self.dump, point.spec, threshold_K
    )

  def measure(self, point: Point) -> dict[str, Any]:
    """A row of `results.json`'s sweep."""
    trace = self.trace(point)
    threshold_K = point.threshold_K(len(self.model.cfg.cells))
    return {
      'split': self.name,
      'signal': point.spec.signal,
      'kv_policy': point.spec.policy,
      'threshold': point.as_json(),
      **self.quality(trace),
      **passes.compute(
        self.model.cfg, point.spec, threshold_K, trace, self.dump.mask_RxT
      ),
    }

  def quality(self, trace: passes.Trace) -> dict[str, float]:
    return passes.quality(
      trace.nll_RxT, trace.correct_RxT, self.dump, self.token_bytes
    )

  def readout(self, k: int) -> dict[str, float]:
    """Quality of always answering at readout k, deeper states the true ones."""
    return self.dump_quality(self.dump, k)

  def dump_quality(self, dump: passes.Dump, k: int) -> dict[str, float]:
    """The same of another model's dump of this split."""
    return passes.quality(
      dump.nll_KxRxT[k], dump.correct_KxRxT[k], dump, self.token_bytes
    )


def scalar_points(config: Any) -> Iterable[Point]:
  """Exits off once per policy, then signals x thresholds x policies."""
  for policy in config.exit.policies:
    yield Point(ExitSpec(config.exit.signals[0], policy), None)
    for signal in config.exit.signals:
      for threshold in config.exit.thresholds[signal]:
        yield Point(ExitSpec(signal, policy), float(threshold))


Measured = tuple[Point, dict[str, Any]]


def searched_points(
  config: Any, select: Split, full_ppl: float
) -> Iterable[Measured]:
  """Per-readout thresholds near the rule's limit, for each signal.

  Bisects the price of compute until the point, under the deployed policy,
  sits at the limit. Readouts come and go as the price changes, so that it may
  jump across: the last point beyond the limit is then drawn back to it.
  Every point visited is on the select split only.
  """
  rule, num = Rule.from_config(config), config.exit.search_points
  cfg, dump = select.model.cfg, select.dump
  context = costs.mean_context(config.data.seq_len)
  mask = dump.mask_RxT > 0
  more = lambda row: rule.wants_more_exits(row, full_ppl)
  for signal in config.exit.signals:
    spec = ExitSpec(signal, config.exit.policy)

    def cost_fn(active_K, spec=spec):
      cost_K = costs.readout_costs(
        cfg, context, spec.policy, signal=spec.signal, active=active_K
      )
      return cost_K / costs.full_flops(cfg, context)

    def priced(price, spec=spec, cost_fn=cost_fn):
      threshold_K = search_thresholds(
        dump.score_KxRxT[spec.signal][:, mask],
        dump.nll_KxRxT[:, mask],
        cost_fn,
        price,
      )
      return Point(spec, tuple(map(float, threshold_K)))

    # Nats per full pass: 0.003 is too cheap, 1 too dear.
    visited = list(_bisect(priced, 0.003, 1.0, select, more, num, log=True))
    yield from visited
    beyond = [point for point, row in visited if not more(row)]
    # Without a highest score there is nothing to draw back.
    if beyond and tightened(beyond[-1], 0.75) != beyond[-1]:
      yield from _bisect(
        lambda share, point=beyond[-1]: tightened(point, share),
        0.75,
        1.0,
        select,
        more,
        num,
      )


def _bisect(
  make: Callable[[float], Point],
  low: float,
  high: float,
  select: Split,
  wants_more: Callable[[dict[str, Any]], bool],
  num: int,
  log: bool = False,
) -> Iterable[Measured]:
  """Visits `num` points between `low`, with too few exits, and `high`."""
  for _ in range(num):
    middle = math.sqrt(low * high) if log else (low + high) / 2
    point = make(middle)
    row = select.measure(point)
    yield point, row
    low, high = (middle, high) if wants_more(row) else (low, middle)


def tightened(point: Point, share: float) -> Point:
  """Finite thresholds at `share` of their distance to the highest score.

  A signal without a highest score keeps its thresholds.
  """
  top = SIGNAL_RANGES[point.spec.signal][1]
  assert isinstance(point.threshold, tuple)
  if math.isinf(top):
    return point
  return point._replace(
    threshold=tuple(
      t if math.isinf(t) else top - share * (top - t) for t in point.threshold
    )
  )


def choose(rows: list[dict[str, Any]], config: Any) -> int:
  """Index of the rule's choice among the rows of the deployed policy."""
  own = [i for i, r in enumerate(rows) if r['kv_policy'] == config.exit.policy]
  full = next(rows[i] for i in own if rows[i]['threshold'] is None)
  rule = Rule.from_config(config)
  return own[rule.choose([rows[i] for i in own], full['ppl'])]


def operating_point(chosen: dict[str, Any]) -> Point:
  """The point that a `results.json` chose, for generation."""
  threshold = chosen['threshold']
  if isinstance(threshold, list):
    threshold = tuple(math.inf if t is None else t for t in threshold)
  return Point(ExitSpec(chosen['signal'], chosen['kv_policy']), threshold)
