"""A run that promises something: its losses, its point, what it says."""

import dataclasses
import json
import math
import shutil
from typing import Any

import numpy as np
import pytest
import small_run
import sweeps

import tiny
from ease_jax import config, fields, specs
from ease_jax import run as run_lib
from ease_jax.checks import ConfigError
from ease_jax.core.gating import GateSpec
from ease_jax.data import task as tasks
from ease_jax.evaluate import evaluation, guarantee, promises, results
from ease_jax.evaluate.passes import Dump
from ease_jax.evaluate.results import REPORT, SELECT
from ease_jax.evaluate.sweep import Evaluator
from ease_jax.evaluate.traces import Trace

ON = dataclasses.replace(
  sweeps.NOTHING, risk='perplexity', epsilon=0.5, cap=2.0
)
TWO_ROWS = ((0, 0, 1), (1, 2, 2))


def dump_of(full_nll_RxT, full_argmax_RxT, mask_RxT, document_RxT):
  """A dump of one readout, of which only what losses read is there."""
  nothing: Any = None
  return Dump(
    nll_KxRxT=np.array([full_nll_RxT]),
    argmax_KxRxT=np.array([full_argmax_RxT]),
    correct_KxRxT=nothing,
    max_prob_KxRxT=nothing,
    score_KxRxT={},
    output_KxRxTxO={},
    mask_RxT=np.array(mask_RxT),
    target_RxT=nothing,
    document_RxT=None if document_RxT is None else np.array(document_RxT),
  )


def trace_of(nll_RxT, argmax_RxT):
  nothing: Any = None
  return Trace(nothing, np.array(nll_RxT), nothing, np.array(argmax_RxT))


@pytest.mark.parametrize(
  'unit, document, expected',
  [
    ('document', TWO_ROWS, (0.2, 0.3, -0.5)),  # (.1 + .3)/2, (.5 + .1)/2
    ('document', None, (0.3, -0.2)),
    ('window', TWO_ROWS, (0.3, -0.2)),
  ],
)
def test_losses_are_means_of_units_in_nats(unit, document, expected):
  dump = dump_of(
    [[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]],
    np.zeros((2, 3), int),
    [[1, 1, 1], [1, 1, 0]],  # the last token is padding
    document,
  )
  trace = trace_of([[1.1, 1.3, 1.5], [2.1, 1.5, 99.0]], np.zeros((2, 3), int))
  spec = dataclasses.replace(ON, unit=unit)
  loss_N = promises.unit_losses(spec, dump, trace) * spec.highest
  np.testing.assert_allclose(loss_N, expected)
  # No unit counts as more than the cap, log(1.15) nats.
  low = dataclasses.replace(spec, cap=0.15, epsilon=0.1)
  capped_N = promises.unit_losses(low, dump, trace) * low.highest
  np.testing.assert_allclose(capped_N, np.minimum(expected, math.log(1.15)))
  assert low.amount(1.0) == pytest.approx(0.15)
  assert low.amount(low.limit) == pytest.approx(0.1)


def test_disagreement_is_the_share_of_other_predictions():
  dump = dump_of(
    np.zeros((2, 3)), [[5, 6, 7], [5, 6, 7]], np.ones((2, 3)), TWO_ROWS
  )
  trace = trace_of(np.zeros((2, 3)), [[5, 0, 7], [5, 0, 0]])
  spec = dataclasses.replace(ON, risk='disagreement')
  loss_N = promises.unit_losses(spec, dump, trace)
  np.testing.assert_allclose(loss_N, [0.5, 0.0, 1.0])


def test_every_risk_has_a_loss():
  assert set(promises.TOKEN_LOSSES) == set(guarantee.RISKS)


def test_the_end_of_a_document_is_its_own():
  tokens = np.array([3, 4, 0, 5, 0, 0, 6])
  found = tasks.documents(tokens, eos_id=0)
  np.testing.assert_array_equal(found, [0, 0, 0, 1, 1, 2, 3])


def test_batches_say_which_document_targets_are_of():
  task = sweeps.task(select=200)
  tokens = task.corpus.splits['select']
  number_N = tasks.documents(tokens, task.eos_id)
  assert number_N[-1] > 2
  found = [
    batch['document'][batch['mask'] > 0]
    for batch in task.eval_batches('select', 4)
  ]
  np.testing.assert_array_equal(np.concatenate(found), number_N[1:])


# ------------------------------------------------------------- the evaluation

THRESHOLDS = (0.3, 0.95, 0.6, 0.8)
SWEEP = sweeps.spec(
  thresholds={'max_prob': THRESHOLDS}, search_points=0, guarantee=ON
)


@pytest.fixture(scope='module')
def evaluated():
  """(model, task, evaluation) under a promise of perplexity."""
  model = tiny.body(num_layers=4)
  task = sweeps.task(select=1600, test=320)
  return (
    model,
    task,
    evaluation.evaluate(SWEEP, model, tiny.params(model), task, GateSpec()),
  )


def test_thresholds_are_asked_from_the_safest_on(evaluated):
  _, _, done = evaluated
  asked = [row.point for row in done.chosen.guarantee.asked]
  assert [point.threshold for point in asked] == sorted(THRESHOLDS)[::-1]
  assert {point.policy for point in asked} == {SWEEP.policy}
  certified = [row.certified for row in done.chosen.guarantee.asked]
  assert certified == sorted(certified, reverse=True)
  for row in done.chosen.guarantee.asked:
    assert row.bound >= max(row.loss, 0)
    assert not row.certified or row.bound <= ON.epsilon


def test_the_chosen_point_is_the_cheapest_certified(evaluated):
  _, _, done = evaluated
  asked = done.chosen.guarantee.asked
  allowed = {None, *(row.point for row in asked if row.certified)}
  assert len(allowed) > 1
  rows = [
    row for row in done.sweep if row.split == SELECT and row.point in allowed
  ]
  best = min(rows, key=lambda row: row.cost.compute)
  assert done.chosen.point == best.point
  assert 'certified' in done.chosen.rule


def test_losses_are_those_under_the_deployed_policy(evaluated):
  model, task, done = evaluated
  select = Evaluator(SELECT, SWEEP, model, tiny.params(model), task)
  for row in done.chosen.guarantee.asked:
    loss_N = promises.unit_losses(ON, select.dump, select.trace(row.point))
    assert len(loss_N) == done.chosen.guarantee.units
    assert ON.amount(loss_N.mean()) == pytest.approx(row.loss)


def test_whether_it_held_is_asked_on_the_other_split(evaluated):
  model, task, done = evaluated
  report = Evaluator(REPORT, SWEEP, model, tiny.params(model), task)
  trace = report.trace(done.chosen.point)
  loss_N = promises.unit_losses(ON, report.dump, trace)
  kept = done.chosen.guarantee.report
  assert kept.units == len(loss_N) != done.chosen.guarantee.units
  assert kept.loss == pytest.approx(ON.amount(loss_N.mean()))
  assert kept.held == (kept.loss <= ON.epsilon)
  assert kept.interval.low <= kept.loss <= kept.interval.high


def test_nothing_is_promised_unless_asked_for():
  c = config.base()
  assert not specs.from_config(c).sweep.guarantee.on
  assert 'certified' not in specs.from_config(c).sweep.rule


# ---------------------------------------------------------------- a whole run

PROMISES = {
  'window': (
    dict(risk='disagreement', epsilon=0.9, unit='window'),
    'share of predictions that are not those of full depth of at most 90 %, in '
    'the mean over windows like those of select, with a probability of 90 % '
    '(betting)',
    'full depth, since no threshold that was certified on 8 windows of select '
    'costs less',
  ),
  'conformal': (
    dict(risk='perplexity', epsilon=0.4, unit='window', method='conformal'),
    'rise of perplexity of at most 40 %, in the mean over windows like those '
    'of select, where none counts as more than 100 %, in expectation over such '
    'splits (conformal)',
    'it held on test',
  ),
  'too few': (
    dict(risk='perplexity', epsilon=0.4),
    'rise of perplexity of at most 40 %',
    'full depth, since select has too few documents (1): without any loss',
  ),
}


@pytest.mark.parametrize(
  'fields, promise, outcome', PROMISES.values(), ids=PROMISES
)
def test_a_run_says_what_it_promises_and_what_came_of_it(
  finished_run, tmp_path, capsys, fields, promise, outcome
):
  text, workdir = finished_run
  shutil.copytree(workdir, tmp_path / 'run')
  c = small_run.make_full_config(text)
  c.exit.guarantee.cap = 1.0 if fields['risk'] == 'perplexity' else 0.1
  c.exit.guarantee.update(fields)
  run_lib.run(c, tmp_path / 'run', 'evaluate')

  said = capsys.readouterr().out
  assert f'Promise: {promise}' in said
  assert f'Outcome: {outcome}' in said

  path = tmp_path / 'run' / results.FILE
  chosen = results.load(path).chosen
  assert chosen.guarantee.risk == fields['risk']
  assert (
    chosen.guarantee.to_json()
    == json.loads(path.read_text())['chosen']['guarantee']
  )
  assert chosen.exits == outcome.startswith('it held')
  page = (tmp_path / 'run' / run_lib.PAGE).read_text()
  assert 'Promise</h2>' in page
  for sentence in (promise, outcome):
    assert sentence in ' '.join(page.split())


def test_a_run_of_before_promises_nothing(finished_run):
  _, workdir = finished_run
  row = json.loads((workdir / results.FILE).read_text())
  assert 'guarantee' not in row['chosen']
  assert 'Promise</h2>' not in (workdir / run_lib.PAGE).read_text()

  tree = json.loads((workdir / 'config.json').read_text())
  del tree['exit']['guarantee']
  assert fields.from_json(tree).exit.guarantee.risk == 'none'


# -------------------------------------------------------------------- mistakes

PROMISED = {'exit.guarantee.risk': 'perplexity'}


@pytest.mark.parametrize(
  'changes, line',
  [
    (
      {'exit.guarantee.risk': 'bleu'},
      "exit.guarantee.risk='bleu' is unknown; use one of: none, perplexity, "
      'disagreement',
    ),
    (
      PROMISED | {'exit.guarantee.method': 'hope'},
      "exit.guarantee.method='hope' is unknown; use one of: betting, "
      'hoeffding_bentkus, conformal',
    ),
    (
      PROMISED | {'exit.guarantee.epsilon': 0.0},
      'exit.guarantee.epsilon=0.0 must be above 0',
    ),
    (
      PROMISED | {'exit.guarantee.delta': 1.0},
      'exit.guarantee.delta=1.0 must be below 1',
    ),
    (
      PROMISED | {'exit.guarantee.unit': 'token'},
      "exit.guarantee.unit='token' is unknown; use one of: document, window",
    ),
    (
      PROMISED | {'exit.guarantee.signal': 'kl'},
      "exit.guarantee.signal='kl' is not in exit.signals=('max_prob', "
      "'margin', 'entropy'), which are swept; add it there",
    ),
    (
      PROMISED | {'exit.guarantee.cap': 0.01},
      'exit.guarantee.cap=0.01 is not above exit.guarantee.epsilon=0.01: no '
      'unit would count as one that breaks the promise; raise cap',
    ),
    (
      PROMISED | {'exit.max_compute': 0.7},
      "exit.max_compute=0.7 and exit.guarantee.risk='perplexity' would both "
      'choose the operating point; set one of them to 0 or none',
    ),
    (
      PROMISED | {'exit.thresholds.max_prob': ()},
      'exit.thresholds.max_prob=() leaves exit.guarantee nothing to ask; add '
      'some',
    ),
    (
      {'exit.guarantee.epsilon': 0.05},
      'exit.guarantee.epsilon=0.05 has no effect: it is read where '
      'exit.guarantee.risk is perplexity or disagreement only, and that is '
      "'none'; change that, or leave epsilon at 0.01",
    ),
    (
      PROMISED
      | {'exit.guarantee.method': 'conformal', 'exit.guarantee.delta': 0.2},
      'exit.guarantee.delta=0.2 has no effect: it is read where '
      'exit.guarantee.method is betting or hoeffding_bentkus only, and that '
      "is 'conformal'; change that, or leave delta at 0.1",
    ),
  ],
)
def test_a_mistake_is_one_line(changes, line):
  c = config.base()
  c.update_from_flattened_dict(changes)
  with pytest.raises(ConfigError) as caught:
    specs.from_config(c)
  assert str(caught.value) == line
