"""What exits save on the clock: the decoder, timed on the report split.

Everything else about a run is a matter of its numbers; this is a matter of the
machine, so it stays out of the sweep.
"""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ease_jax import decode
from ease_jax.core.policies import UNREACHED, OperatingPoint, thresholds
from ease_jax.data.task import Task
from ease_jax.decode import loop
from ease_jax.decode import step as steps
from ease_jax.evaluate.results import (
  REPORT,
  BreakEven,
  Chosen,
  Speed,
  SpeedPoint,
  SweepRow,
)
from ease_jax.evaluate.sweep import SweepSpec
from ease_jax.model import Body, Params

ROUNDS = 5
CALIBRATION = 4  # prompts
POINTS = 5  # with exits, the chosen one among them


class Decoded(NamedTuple):
  """What was decoded of R windows of T tokens.

  Attributes:
    exit_RxT: the readout that answered each token.
    passed_RxTxL: tokens that routers kept out of each cell in each step; None
      where there are no routers.
  """

  exit_RxT: np.ndarray
  passed_RxTxL: np.ndarray | None


class Timed(NamedTuple):
  """What a run took and returned.

  Attributes:
    seconds: of each round.
    value: of the warm-up.
  """

  seconds: list[float]
  value: Any


def timed(
  runs: Sequence[Callable[[], Any]],
  now: Callable[[], float] = time.perf_counter,
) -> list[Timed]:
  """Runs everything once to warm up, then in rounds in which all take turns.

  Args:
    runs: what is timed.
    now: a clock, seconds.
  """
  values = [run() for run in runs]
  seconds: list[list[float]] = [[] for _ in runs]

  for _ in range(ROUNDS):
    for run, its_seconds in zip(runs, seconds, strict=True):
      start = now()
      run()
      its_seconds.append(now() - start)

  return [Timed(s, value) for s, value in zip(seconds, values, strict=True)]


def measure(
  spec: SweepSpec,
  model: Body,
  params: Params,
  task: Task,
  chosen: Chosen,
  sweep: Sequence[SweepRow],
) -> Speed | None:
  """Tokens per second of some points of the sweep; None if not asked for.

  The decoder reads windows of the report split one by one, so that every token
  stops where the evaluation has it stop; all points take turns.

  Args:
    spec: which split, and how many tokens of it.
    model: the evaluated body.
    params: its parameters.
    task: the evaluated one.
    chosen: the operating point.
    sweep: all points, on both splits.

  Raises:
    ConfigError: the split is too short.
  """
  if not spec.speed_tokens:
    return None

  spec.check_data(task)
  windows = _windows(spec, task)
  off = next(r for r in sweep if r.split == REPORT and r.point is None)
  rows = [off, *_others(spec, chosen, sweep)]
  points = [row.point for row in rows]
  ppls = [row.quality.ppl for row in rows]
  if chosen.point is not None:
    points.insert(1, chosen.point)
    ppls.insert(1, chosen.report.quality.ppl)

  # What exits cost where none is ever taken.
  signal = _signal(spec, chosen)
  points.append(OperatingPoint(signal, spec.policy, UNREACHED))
  ppls.append(off.quality.ppl)

  runs = timed([decoding(model, params, windows, point) for point in points])
  full_seconds = statistics.median(runs[0].seconds)
  full_compute = decode.compute_decoder(model, None, *runs[0].value)
  prices = model.costs_of_windows(task.seq_len)
  return Speed(
    tokens=runs[0].value.exit_RxT.size,
    rounds=ROUNDS,
    batch_size=1,
    context=task.seq_len,
    device=jax.devices()[0].device_kind,
    head_layers=prices.head / float(prices.cell_L.mean()),
    points=tuple(
      _speed_point(
        model,
        point,
        run,
        ppl,
        ppls[0],
        full_seconds,
        full_compute,
        point == chosen.point,
      )
      for point, run, ppl in zip(points, runs, ppls, strict=True)
    ),
    break_even=break_even(model, chosen, task.seq_len),
  )


def break_even(
  model: Body, chosen: Chosen, seq_len: int
) -> tuple[BreakEven, ...]:
  """When asking has paid for itself, at every readout but the last.

  Args:
    model: a body.
    chosen: its operating point.
    seq_len: T, tokens of a window.

  Returns:
    Nothing with exits off, or where all cells are run all the same, later.
  """
  point = chosen.point
  if point is None or point.rule.policy.runs_on:
    return ()

  grid = model.grid
  rule = point.rule
  prices = model.costs_of_windows(seq_len)
  fill_K = prices.fills_K(rule.policy)
  # Who stops needs no last head, but now one here if asking took none.
  needs_K = [rule.signal.needs_head(k) for k in range(grid.num_readouts)]
  head_K = np.where(needs_K, prices.head_K, 0.0)
  saved_K = prices.static_K[-1] - prices.static_K - fill_K + head_K

  fraction_K = np.asarray(chosen.report.cost.exit_fraction)
  arriving_K = np.cumsum(fraction_K[::-1])[::-1]
  stopped_K = fraction_K / np.maximum(arriving_K, 1e-12)
  active_K = point.threshold_K(grid.num_readouts) < np.inf

  return tuple(
    BreakEven(
      segment=segment,
      layer=layer,
      needed=float(prices.asking(rule, k) / saved_K[k]),
      stopped=float(stopped_K[k]),
      active=bool(active_K[k]),
    )
    for k, (segment, layer) in enumerate(grid.names_K[:-1])
  )


def fastest_draft(
  model: Body,
  variables: loop.Variables,
  prompts: Sequence[Sequence[int]],
  drafts: Sequence[decode.Draft],
  *,
  options: decode.Options,
) -> tuple[decode.Draft | None, dict[decode.Draft | None, float]]:
  """The drafting that is fastest on calibration prompts; None is without.

  Args:
    model: a body.
    variables: with its `params`.
    prompts: token ids; they are continued one by one.
    drafts: what to try.
    options: of the continuation.

  Returns:
    The fastest, and the median seconds of each.
  """

  def without_drafts():
    for prompt in prompts:
      decode.generate(model, variables, [prompt], options=options)

  def with_drafts(draft: decode.Draft):
    decode.speculate(model, variables, prompts, draft, options=options)

  ways: list[decode.Draft | None] = [None, *drafts]
  runs = [without_drafts]
  runs += [functools.partial(with_drafts, draft) for draft in drafts]

  medians: dict[decode.Draft | None, float] = {}
  for way, run in zip(ways, timed(runs), strict=True):
    medians[way] = statistics.median(run.seconds)
  return min(ways, key=lambda way: medians[way]), medians


def calibration_prompts(spec: SweepSpec, task: Task) -> list[list[int]]:
  """The first quarters of some windows of the select split."""
  length = max(1, task.seq_len // 4)
  windows = task.eval_batches(spec.select_split, 1, CALIBRATION * task.seq_len)
  return [window['tokens'][0, :length].tolist() for window in windows]


def decoding(
  model: Body,
  params: Params,
  windows: Sequence[np.ndarray],
  point: OperatingPoint | None,
) -> Callable[[], Decoded]:
  """A run that decodes given windows from an empty cache, one by one.

  Args:
    model: a body.
    params: its parameters.
    windows: tokens [1, T] of each.
    point: where tokens exit; None = nowhere.

  Returns:
    A function that decodes all of them.
  """
  length = windows[0].shape[1]
  threshold_K = thresholds(point, model.grid.num_readouts)
  slot = loop.least_slot(point)
  first_B = np.zeros(1, np.int32)
  end_B = np.full(1, length + 1, np.int32)

  def decoded(token_1xT: np.ndarray) -> Decoded:
    cache = decode.init_cache(model, 1, slot + length, slot)
    rows = loop.start(model, point, token_1xT[:, 0], first_B, end_B, 0)
    stepped, _, _ = steps.many_steps(
      params,
      cache,
      rows,
      np.int32(slot),
      threshold_K,
      np.int32(-1),
      np.roll(token_1xT, -1, 1).T,
      num=length,
      model=model,
      rule=loop.rule_of(point),
      sampling=decode.Sampling(),
    )
    passed_TxL = None
    if stepped.passed_BxL is not None:
      passed_TxL = np.asarray(stepped.passed_BxL[:, 0])
    return Decoded(np.asarray(stepped.exit_B[:, 0]), passed_TxL)

  def run() -> Decoded:
    parts = [decoded(window) for window in windows]
    return jax.tree.map(lambda *x: np.stack(x), *parts)

  return run


def _windows(spec: SweepSpec, task: Task) -> list[np.ndarray]:
  """Whole windows of the report split, [1, T] each."""
  name = spec.report_split
  batches = task.eval_batches(name, 1, spec.speed_tokens)
  return [b['tokens'] for b in batches if b['mask'][:, -1].all()]


def _signal(spec: SweepSpec, chosen: Chosen) -> str:
  """Name of the signal that points are timed with."""
  return chosen.point.signal if chosen.point else spec.signals[0]


def _others(
  spec: SweepSpec, chosen: Chosen, sweep: Sequence[SweepRow]
) -> list[SweepRow]:
  """Points with exits like the chosen one's, spread over their compute."""
  signal = _signal(spec, chosen)
  rows = [
    row
    for row in sweep
    if row.split == REPORT
    and row.point is not None
    and row.point.signal == signal
    and row.point.policy == spec.policy
    and row.point != chosen.point
  ]
  rows.sort(key=lambda row: row.cost.compute)

  num = min(POINTS - 1, len(rows))
  places = np.linspace(0, len(rows) - 1, num).round().astype(int)
  return [rows[i] for i in sorted(set(places.tolist()))]


def _speed_point(
  model: Body,
  point: OperatingPoint | None,
  run: Timed,
  ppl: float,
  full_ppl: float,
  full_seconds: float,
  full_compute: float,
  chosen: bool,
) -> SpeedPoint:
  tokens = run.value.exit_RxT.size
  low, middle, high = statistics.quantiles(run.seconds, n=4)
  compute = decode.compute_decoder(model, point, *run.value)
  return SpeedPoint(
    point=point,
    ppl=ppl,
    ppl_vs_full=ppl / full_ppl,
    tokens_per_second=tokens / middle,
    tokens_per_second_low=tokens / high,
    tokens_per_second_high=tokens / low,
    speedup=full_seconds / middle,
    expected_speedup=full_compute / compute,
    compute_decoder=compute,
    chosen=chosen,
  )
