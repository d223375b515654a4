"""What a run says about its exits: chosen on select, reported on report."""

import dataclasses
import json

import pytest
import sweeps

import tiny
from ease_jax.core.gating import GateSpec
from ease_jax.evaluate import evaluation
from ease_jax.evaluate.results import REPORT, SELECT, exits_early
from ease_jax.evaluate.sweep import Evaluator

RATIO = 1.3
THRESHOLDS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
SPEC = sweeps.spec(max_ppl_ratio=RATIO, thresholds={'max_prob': THRESHOLDS})
SHAPES = {
  'stack': dict(num_layers=4),
  'refine': dict(body='refine', segments=2, num_layers=2),
}


@pytest.fixture(scope='module', params=SHAPES.values(), ids=SHAPES)
def evaluated(request):
  """A model, and its evaluation with compute turned round on report.

  So that a choice made there would be another one.
  """
  model = tiny.body(**request.param)
  task = sweeps.task(select=200, test=160)
  make_row = Evaluator.row

  def reversed_on_report(self, point, trace):
    row = make_row(self, point, trace)
    if self.role == SELECT:
      return row
    cost = dataclasses.replace(row.cost, compute=2 - row.cost.compute)
    return dataclasses.replace(row, cost=cost)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(Evaluator, 'row', reversed_on_report)
    params = tiny.params(model)
    done = evaluation.evaluate(SPEC, model, params, task, GateSpec())
  return model, done


def own_rows(done, split):
  """Those among which the point is chosen."""
  return [
    row
    for row in done.sweep
    if row.split == split
    and (row.point is None or row.point.policy == SPEC.policy)
  ]


def best_of(rows):
  full = next(row for row in rows if row.point is None)
  limit = RATIO * full.quality.ppl
  allowed = [row for row in rows if row.quality.ppl <= limit]
  return min(allowed, key=lambda row: row.cost.compute)


def test_the_sweep_is_the_same_on_both_splits(evaluated):
  _, done = evaluated
  select = [row.point for row in done.sweep if row.split == SELECT]
  report = [row.point for row in done.sweep if row.split == REPORT]
  assert select == report
  assert len(select) == len(set(select))
  assert select.count(None) == 1


def test_searched_points_exit_somewhere(evaluated):
  model, done = evaluated
  points = {row.point for row in done.sweep if row.point}
  searched = [p for p in points if isinstance(p.threshold, tuple)]
  assert all(exits_early(p) for p in searched)
  # The other model's early readouts are never worth their price.
  assert bool(searched) == (model.cfg.body == 'refine')


def test_the_point_is_chosen_on_select(evaluated):
  _, done = evaluated
  best = best_of(own_rows(done, SELECT))
  assert done.chosen.point == best.point
  assert done.chosen.select.quality == best.quality
  assert done.chosen.select.cost == best.cost
  # The other split would have chosen something else.
  assert best_of(own_rows(done, REPORT)).point != best.point


def test_the_point_is_reported_on_the_other_split(evaluated):
  _, done = evaluated
  rows = {row.point: row for row in own_rows(done, REPORT)}
  row = rows[done.chosen.point]
  assert done.chosen.report.quality == row.quality
  assert done.chosen.report.cost == row.cost

  ratio = row.quality.ppl / rows[None].quality.ppl
  assert done.chosen.report.ppl_vs_full == ratio
  assert (done.chosen.select_split, done.chosen.report_split) == (
    'select',
    'test',
  )


def test_numbers_are_finite_json(evaluated):
  _, done = evaluated
  records = *done.readouts, *done.sweep, done.chosen, *done.clairvoyant
  for record in (*records, done.passage):
    text = json.dumps(record.to_json(), allow_nan=False)
    assert json.loads(text) == record.to_json()


def test_rows_name_their_readouts(evaluated):
  model, done = evaluated
  names = list(model.grid.names_K)
  assert [(r.segment, r.layer) for r in done.readouts] == names
  assert [(r.segment, r.layer) for r in done.calibration] == names
  for token in done.passage.tokens:
    assert names[token.readout] == (token.segment, token.layer)

  fractions = [r.layer_fraction for r in done.readouts]
  assert fractions == [0.25, 0.5, 0.75, 1.0]


def test_segments_are_run_twice_as_often_as_in_training(evaluated):
  model, done = evaluated
  segments = [row.segments for row in done.segments]
  assert segments == ([] if model.grid.segments == 1 else [1, 2, 3, 4])
  if segments:
    trained = done.segments[model.grid.segments - 1]
    assert trained.report.nll == pytest.approx(done.readouts[-1].report.nll)


def test_the_last_readout_is_the_row_with_exits_off(evaluated):
  _, done = evaluated
  for split in (SELECT, REPORT):
    off = next(r for r in own_rows(done, split) if r.point is None)
    assert off.quality == getattr(done.readouts[-1], split)
  off = next(r for r in own_rows(done, SELECT) if r.point is None)
  assert off.cost.compute == 1


def test_intervals_are_those_of_the_reported_split(evaluated):
  _, done = evaluated
  assert done.chosen.select.intervals is None
  side = done.chosen.report
  assert side.tokens == 159
  assert sum(done.windows.tokens) == 159
  for interval, value in (
    (side.intervals.ppl, side.quality.ppl),
    (side.intervals.ppl_vs_full, side.ppl_vs_full),
  ):
    assert interval.low <= value <= interval.high
  last = done.readouts[-1].ppl_vs_full_interval
  assert (last.low, last.high) == (1, 1)


def test_sums_over_windows_are_those_of_the_rows(evaluated):
  model, done = evaluated
  windows = done.windows
  tokens = sum(windows.tokens)
  assert windows.full_flops == model.costs_of_windows(8).full
  rows = [row for row in done.sweep if row.split == REPORT]
  for row, sums in zip(rows, windows.points, strict=True):
    assert sum(sums.nll) / tokens == pytest.approx(row.quality.nll)
    compute = sum(sums.flops) / tokens / windows.full_flops
    # The fixture has turned it round.
    assert compute == pytest.approx(2 - row.cost.compute)
  for row, sums in zip(done.readouts, windows.readouts, strict=True):
    assert sum(sums.nll) / tokens == pytest.approx(row.report.nll)
    assert sum(sums.flops) / tokens == pytest.approx(row.flops_static)


def test_the_passage_begins_the_report_split(evaluated):
  _, done = evaluated
  tokens = sweeps.task(select=200, test=160).corpus.splits['test']
  text = ''.join(token.text for token in done.passage.tokens)
  assert done.passage.split == 'test'
  assert text == ''.join(map(chr, tokens[1:]))


def test_facts_of_a_model(evaluated):
  model, _ = evaluated
  facts = evaluation.model_facts(model, tiny.params(model))
  assert facts.body == model.cfg.body
  assert facts.segments == model.grid.segments
  assert facts.vocab_size == tiny.VOCAB
  assert facts.params > 1000
