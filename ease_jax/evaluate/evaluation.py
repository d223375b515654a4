"""Everything that a trained model's exits come to, for `results.json`."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import numpy as np

from ease_jax import model as model_lib
from ease_jax.core.gating import GateSpec
from ease_jax.core.policies import OperatingPoint
from ease_jax.data.task import Task
from ease_jax.evaluate import choosing, clairvoyant, compute, routing
from ease_jax.evaluate.choosing import Selection
from ease_jax.evaluate.facts import ModelFacts, RouterRow
from ease_jax.evaluate.gates import gate_rows
from ease_jax.evaluate.passage import Passage, PassageToken
from ease_jax.evaluate.passes import Dump
from ease_jax.evaluate.reliability import GateRow
from ease_jax.evaluate.results import (
  REPORT,
  SELECT,
  Bin,
  Calibration,
  Chosen,
  ChosenSide,
  ClairvoyantRow,
  Intervals,
  ReadoutRow,
  SegmentRow,
  SweepRow,
)
from ease_jax.evaluate.sweep import Evaluator, SweepSpec
from ease_jax.evaluate.windows import Sums, Windows, in_stretches
from ease_jax.model import Body, Params

PASSAGE_TOKENS = 900


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The sections of `results.json` about exits, and the report's passage.

  Attributes: as in `results.Results`, and
    passage: the beginning of the report split.
    windows: sums over its stretches.
  """

  readouts: tuple[ReadoutRow, ...]
  sweep: tuple[SweepRow, ...]
  chosen: Chosen
  clairvoyant: tuple[ClairvoyantRow, ...]
  calibration: tuple[Calibration, ...]
  segments: tuple[SegmentRow, ...]
  routers: tuple[RouterRow, ...]
  gates: tuple[GateRow, ...]
  passage: Passage
  windows: Windows


def evaluate(
  spec: SweepSpec,
  model: Body,
  params: Params,
  task: Task,
  gating: GateSpec,
) -> Evaluation:
  """Sweeps, chooses an operating point and measures it on the other split.

  Args:
    spec: what is tried, and on which splits.
    model: a body.
    params: its trained parameters.
    task: what it was trained for.
    gating: what its gates have learned.

  Raises:
    ConfigError: tokens of this model cannot exit as the spec says, or no
      point is within its `max_compute`.
  """
  select = Evaluator(SELECT, spec, model, params, task)
  report = Evaluator(REPORT, spec, model, params, task)

  chosen = choosing.choose(spec, select)
  points = chosen.points

  reported = []
  sums = []
  for point in points:
    trace = report.trace(point)
    reported.append(report.row(point, trace))
    sums.append(report.sums(point, trace))
  windows = _windows(report, sums)
  intervals = _intervals(windows, sums[chosen.best], sums[points.index(None)])

  return Evaluation(
    readouts=_readout_rows(select, report, windows),
    sweep=(*chosen.rows, *reported),
    chosen=_chosen(spec, select, report, chosen, reported, intervals),
    clairvoyant=(
      *clairvoyant.frontier(select, spec.policy),
      *clairvoyant.frontier(report, spec.policy),
    ),
    calibration=_calibration(report),
    segments=_segment_rows(spec, select, report),
    routers=routing.router_rows(select, report),
    gates=gate_rows(model.grid, gating, report.dump),
    passage=_passage(spec, report, chosen.point),
    windows=windows,
  )


def model_facts(model: Body, params: Params) -> ModelFacts:
  """What `results.json` says about a model."""
  return ModelFacts(
    params=sum(x.size for x in jax.tree.leaves(params)),
    body=model.cfg.body,
    segments=model.grid.segments,
    layers=model.cfg.num_layers,
    vocab_size=model.cfg.vocab_size,
    elastic=model.elastic,
  )


def _readout_rows(
  select: Evaluator, report: Evaluator, windows: Windows
) -> tuple[ReadoutRow, ...]:
  grid = report.model.grid
  prices = report.model.costs_of_windows(report.task.seq_len)
  full = report.readout(grid.num_readouts - 1)
  mask = report.dump.mask_RxT > 0
  spared_KxRxT = _spared(report)
  rows = []

  for k, (segment, layer) in enumerate(grid.names_K):
    flops = float(prices.static_K[k] - spared_KxRxT[k][mask].mean())
    quality = report.readout(k)
    rows.append(
      ReadoutRow(
        segment=segment,
        layer=layer,
        flops_static=flops,
        compute_static=prices.relative(flops),
        layer_fraction=grid.depth_K[k] / grid.depth,
        select=select.readout(k),
        report=quality,
        ppl_vs_full=quality.ppl / full.ppl,
        ppl_vs_full_interval=windows.ppl_ratio(
          windows.readouts[k], windows.readouts[-1]
        ),
      )
    )
  return tuple(rows)


def _spared(report: Evaluator) -> np.ndarray:
  """FLOPs that routers spare each token up to each readout, [K, R, T]."""
  dump = report.dump
  if dump.run_LxRxT is None:
    return np.zeros(dump.nll_KxRxT.shape)
  return compute.spared(report.model, dump.run_LxRxT)


def _intervals(windows: Windows, point: Sums, off: Sums) -> Intervals:
  return Intervals(
    full_ppl=windows.ppl(off),
    ppl=windows.ppl(point),
    ppl_vs_full=windows.ppl_ratio(point, off),
    compute=windows.compute(point),
  )


def _chosen(
  spec: SweepSpec,
  select: Evaluator,
  report: Evaluator,
  chosen: Selection,
  reported: Sequence[SweepRow],
  intervals: Intervals,
) -> Chosen:
  def side(
    split: Evaluator,
    rows: Sequence[SweepRow],
    intervals: Intervals | None = None,
  ) -> ChosenSide:
    row = rows[chosen.best]
    off = next(r for r in rows if r.point is None)
    return ChosenSide(
      row.quality,
      row.cost,
      ppl_vs_full=row.quality.ppl / off.quality.ppl,
      tokens=int((split.dump.mask_RxT > 0).sum()),
      intervals=intervals,
    )

  return Chosen(
    rule=spec.rule,
    policy=spec.policy,
    point=chosen.point,
    select_split=spec.select_split,
    report_split=spec.report_split,
    select=side(select, chosen.rows),
    report=side(report, reported, intervals),
    guarantee=choosing.promise(spec, report, chosen),
  )


def _windows(report: Evaluator, traced: Sequence[Sums]) -> Windows:
  """Sums over the report split: static exits, and the points of the sweep."""
  prices = report.model.costs_of_windows(report.task.seq_len)
  dump = report.dump
  tokens_W = in_stretches(np.ones(dump.mask_RxT.shape), dump.mask_RxT)
  readouts = []
  for nll_RxT, flops, spared_RxT in zip(
    dump.nll_KxRxT, prices.static_K, _spared(report), strict=True
  ):
    spared_W = in_stretches(spared_RxT, dump.mask_RxT)
    readouts.append(
      Sums(
        nll=tuple(in_stretches(nll_RxT, dump.mask_RxT).tolist()),
        flops=tuple((flops * tokens_W - spared_W).tolist()),
      )
    )
  return Windows(
    split=report.split,
    full_flops=prices.full,
    tokens=tuple(tokens_W.astype(int).tolist()),
    readouts=tuple(readouts),
    points=tuple(traced),
  )


def _calibration(report: Evaluator) -> tuple[Calibration, ...]:
  rows = []
  for k, (segment, layer) in enumerate(report.model.grid.names_K):
    values = compute.calibration(report.dump, k)
    bins = tuple(Bin(**b) for b in values['bins'])
    rows.append(Calibration(segment, layer, values['ece'], bins))
  return tuple(rows)


def _segment_rows(
  spec: SweepSpec, select: Evaluator, report: Evaluator
) -> tuple[SegmentRow, ...]:
  """Quality at the end of each segment: does refinement go on?

  Empty for models of one segment. Runs of one that learned to make the whole
  way in fewer do so here, each its equal part.
  """
  grid = report.model.grid
  if grid.segments == 1:
    return ()

  elastic = report.model.elastic
  num = spec.segments or (1 if elastic else 2) * grid.segments

  @functools.lru_cache(maxsize=1)
  def dumps(runs: int) -> tuple[Dump, Dump]:
    if runs == grid.segments:
      return select.dump, report.dump
    model = model_lib.with_segments(report.model, runs)
    return select.dump_of(model), report.dump_of(model)

  rows = []
  for segments in range(1, num + 1):
    select_dump, report_dump = dumps(segments if elastic else num)
    last = segments * grid.per_segment - 1
    rows.append(
      SegmentRow(
        segments,
        select=select.readout(last, select_dump),
        report=report.readout(last, report_dump),
      )
    )
  return tuple(rows)


def _passage(
  spec: SweepSpec, report: Evaluator, point: OperatingPoint | None
) -> Passage:
  """The first tokens of the report split, each with its exit and loss.

  They are consecutive, where the evaluation's windows may be far apart.
  """
  beginning = report.task.beginning(report.split, PASSAGE_TOKENS)
  split = Evaluator(
    REPORT, spec, report.model, report.params, beginning, max_tokens=0
  )
  trace = split.trace(point)
  mask = split.dump.mask_RxT > 0
  target_N = split.dump.target_RxT[mask].tolist()
  exit_N = trace.exit_RxT[mask].tolist()
  nll_N = trace.nll_RxT[mask].tolist()
  ran_N = routing.routed_cells(report.model, trace, mask)

  tokens = []
  for target, readout, nll, ran in zip(
    target_N, exit_N, nll_N, ran_N, strict=True
  ):
    segment, layer = report.model.grid.names_K[readout]
    tokens.append(
      PassageToken(
        text=report.task.token_text(target),
        prob=math.exp(-nll),
        readout=readout,
        segment=segment,
        layer=layer,
        nll=nll,
        ran=ran,
      )
    )
  return Passage(report.split, tuple(tokens))
