"""Everything that a trained model's exits come to, for `results.json`."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np

from ease_jax import model as model_lib
from ease_jax.core.policies import RECOMPUTE, OperatingPoint
from ease_jax.data.task import Task
from ease_jax.evaluate import traces
from ease_jax.evaluate.compute import calibration, oracle_exit
from ease_jax.evaluate.facts import ModelFacts
from ease_jax.evaluate.passage import Passage, PassageToken
from ease_jax.evaluate.results import (
  REPORT,
  SELECT,
  Bin,
  Calibration,
  Chosen,
  ChosenSide,
  Cost,
  OracleRow,
  ReadoutRow,
  SegmentRow,
  SweepRow,
)
from ease_jax.evaluate.search import searched_points
from ease_jax.evaluate.sweep import Evaluator, SweepSpec, scalar_points
from ease_jax.model import Body, Params

PASSAGE_TOKENS = 900


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """The sections of `results.json` about exits, and the report's passage.

  Attributes: as in `results.Results`, and
    passage: the beginning of the report split.
  """

  readouts: tuple[ReadoutRow, ...]
  sweep: tuple[SweepRow, ...]
  chosen: Chosen
  oracle: tuple[OracleRow, ...]
  calibration: tuple[Calibration, ...]
  segments: tuple[SegmentRow, ...]
  passage: Passage


def evaluate(
  spec: SweepSpec, model: Body, params: Params, task: Task
) -> Evaluation:
  """Sweeps, chooses an operating point and measures it on the other split.

  Args:
    spec: what is tried, and on which splits.
    model: a body.
    params: its trained parameters.
    task: what it was trained for.

  Raises:
    ConfigError: tokens of this model cannot exit as the spec says, or no
      point is within its `max_compute`.
  """
  select = Evaluator(SELECT, spec, model, params, task)
  report = Evaluator(REPORT, spec, model, params, task)

  points = list(scalar_points(spec, task.unit))
  selected = [select.measure(point) for point in points]
  full_ppl = selected[points.index(None)].quality.ppl
  for visited in searched_points(spec, select, full_ppl):
    if visited.point not in points:
      points.append(visited.point)
      selected.append(visited.row)
  reported = [report.measure(point) for point in points]
  best = spec.choice.best(selected, spec.policy)

  return Evaluation(
    readouts=_readout_rows(select, report),
    sweep=(*selected, *reported),
    chosen=_chosen(spec, selected, reported, best),
    oracle=(_oracle_row(select), _oracle_row(report)),
    calibration=_calibration(report),
    segments=_segment_rows(spec, select, report),
    passage=_passage(spec, report, points[best]),
  )


def model_facts(model: Body, params: Params) -> ModelFacts:
  """What `results.json` says about a model."""
  return ModelFacts(
    params=sum(x.size for x in jax.tree.leaves(params)),
    body=model.cfg.body,
    segments=model.grid.segments,
    layers=model.cfg.num_layers,
    vocab_size=model.cfg.vocab_size,
  )


def _readout_rows(
  select: Evaluator, report: Evaluator
) -> tuple[ReadoutRow, ...]:
  grid = report.model.grid
  prices = report.model.costs_of_windows(report.task.seq_len)
  rows = []

  for k, (segment, layer) in enumerate(grid.names_K):
    cost_flops = float(prices.static_K[k])
    rows.append(
      ReadoutRow(
        segment=segment,
        layer=layer,
        cost_flops=cost_flops,
        cost=prices.relative(cost_flops),
        layer_fraction=grid.depth_K[k] / grid.depth,
        select=select.readout(k),
        report=report.readout(k),
      )
    )
  return tuple(rows)


def _chosen(
  spec: SweepSpec,
  selected: Sequence[SweepRow],
  reported: Sequence[SweepRow],
  best: int,
) -> Chosen:
  def side(rows: Sequence[SweepRow]) -> ChosenSide:
    row = rows[best]
    off = next(r for r in rows if r.point is None)
    ratio = row.quality.ppl / off.quality.ppl
    return ChosenSide(row.quality, row.cost, ppl_vs_full=ratio)

  return Chosen(
    rule=str(spec.choice),
    policy=spec.policy,
    point=selected[best].point,
    select_split=spec.select_split,
    report_split=spec.report_split,
    select=side(selected),
    report=side(reported),
  )


def _oracle_row(split: Evaluator) -> OracleRow:
  """Answers where the loss is first as good as the last readout's."""
  grid = split.model.grid
  mask = split.dump.mask_RxT > 0
  exit_RxT = oracle_exit(split.dump)
  trace = traces.trace_from_dump(split.dump, exit_RxT)

  count_K = np.bincount(exit_RxT[mask], minlength=grid.num_readouts)
  fraction_K = count_K / mask.sum()
  prices = split.model.costs_of_windows(mask.shape[1])
  depth = float(fraction_K @ np.asarray(grid.depth_K))

  return OracleRow(
    split=split.role,
    kv_policy=RECOMPUTE.name,
    quality=split.quality(trace.nll_RxT, trace.correct_RxT),
    cost=Cost(
      compute=prices.relative(float(fraction_K @ prices.static_K)),
      layer_fraction=depth / grid.depth,
      mean_readout=float(fraction_K @ np.arange(1, len(fraction_K) + 1)),
      exit_fraction=tuple(fraction_K.tolist()),
    ),
  )


def _calibration(report: Evaluator) -> tuple[Calibration, ...]:
  rows = []
  for k, (segment, layer) in enumerate(report.model.grid.names_K):
    values = calibration(report.dump, k)
    bins = tuple(Bin(**b) for b in values['bins'])
    rows.append(Calibration(segment, layer, values['ece'], bins))
  return tuple(rows)


def _segment_rows(
  spec: SweepSpec, select: Evaluator, report: Evaluator
) -> tuple[SegmentRow, ...]:
  """Quality at the end of each segment: does refinement go on?

  Empty for models of one segment.
  """
  grid = report.model.grid
  if grid.segments == 1:
    return ()

  num = spec.segments or 2 * grid.segments
  deeper = model_lib.deeper(report.model, num)
  select_dump = select.dump_of(deeper)
  report_dump = report.dump_of(deeper)

  rows = []
  for segments in range(1, num + 1):
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

  tokens = []
  for target, readout, nll in zip(target_N, exit_N, nll_N, strict=True):
    segment, layer = report.model.grid.names_K[readout]
    tokens.append(
      PassageToken(
        text=report.task.token_text(target),
        prob=math.exp(-nll),
        readout=readout,
        segment=segment,
        layer=layer,
        nll=nll,
      )
    )
  return Passage(report.split, tuple(tokens))
