"""The page's table of signals."""

import dataclasses
import json

import fake_run
import pytest
from test_study_statistics import single

from ease_jax.checks import ConfigError
from ease_jax.core.policies import OperatingPoint
from ease_jax.evaluate import results as results_lib
from ease_jax.evaluate.reliability import GateBin, GateRow
from ease_jax.report import signals, write_report
from ease_jax.report.study import write_page
from ease_jax.study import signals as study_signals
from ease_jax.study import statistics
from ease_jax.study.study import Study


@pytest.mark.parametrize(
  'ppl, compute',
  [
    (10.0, 1.0),  # the best point
    (11.0, 0.75),  # half way to the next
    (12.0, 0.5),
    (20.0, 0.2),  # no point is as bad: the cheapest
    (9.0, None),  # none is as good
  ],
)
def test_the_least_compute_of_a_curve(ppl, compute):
  curve = [(1.0, 10.0), (0.2, 15.0), (0.5, 12.0), (0.6, 14.0), (1.1, 12.5)]
  assert signals.compute_at(curve, ppl) == pytest.approx(compute)


def test_no_curve_reaches_nothing():
  assert signals.compute_at([], 3.0) is None


def results_of(**curves):
  """Results in which each signal has the points of a curve."""
  base = fake_run.results()
  off = base.off(results_lib.REPORT)
  policy = base.chosen.policy
  rows = []
  for name, points in curves.items():
    for number, (compute, ratio) in enumerate(points):
      point = OperatingPoint(name, policy, 0.1 * number)
      rows.append(
        dataclasses.replace(
          off,
          point=point,
          quality=dataclasses.replace(off.quality, ppl=ratio * off.quality.ppl),
          cost=dataclasses.replace(off.cost, compute=compute),
        )
      )
  others = [row for row in base.sweep if row.point is None]
  return dataclasses.replace(base, sweep=(*others, *rows))


def knowing(results, compute):
  """The same results; who knows all losses needs so much at 1.01."""
  off = results.off(results_lib.REPORT)
  least = dataclasses.replace(
    results.clairvoyant[0],
    split=results_lib.REPORT,
    quality=dataclasses.replace(off.quality, ppl=1.01 * off.quality.ppl),
    cost=dataclasses.replace(off.cost, compute=compute),
  )
  return dataclasses.replace(results, clairvoyant=(least,))


def test_shares_of_the_way_to_the_frontier():
  results = results_of(
    max_prob=[(0.8, 1.01)], calm=[(0.7, 1.01)], margin=[(0.9, 1.01)]
  )
  rows = {row.name: row for row in signals.signal_rows(knowing(results, 0.4))}
  assert rows['max_prob'].closed == 0
  assert rows['calm'].closed == pytest.approx(0.25)
  assert rows['margin'].closed == pytest.approx(-0.25)
  assert [row.learned for row in rows.values()] == [False, True, False]


def test_a_study_says_what_signals_need(tmp_path):
  """Shares are of the means: (0.75 - 0.6) / (0.75 - 0.45)."""
  runs = {}
  for seed, (usual, other, least) in enumerate(
    [(0.8, 0.7, 0.5), (0.7, 0.5, 0.4)]
  ):
    results = results_of(max_prob=[(usual, 1.01)], calm=[(other, 1.01)])
    run = single(100.0, 2.0, seed)
    runs[seed] = run._replace(results=knowing(results, least))

  names = {'exits': {}, 'absent': {}}
  study = Study('', '', names, (0, 1), pairs=(), signals=('exits', 'absent'))
  comparison = statistics.summarize(
    study, {'exits': runs}, [], fake_run.results().provenance
  )
  calm = {
    cost.level: cost for cost in comparison.signals if cost.signal == 'calm'
  }
  # Half way to full depth; who knows all losses is never so good.
  assert calm[1.005].compute.mean == pytest.approx(0.8)
  assert calm[1.005].closed is None
  assert calm[1.01].compute.values == (0.7, 0.5)
  assert calm[1.01].closed == pytest.approx(0.5)

  write_page(tmp_path, comparison)
  table = (tmp_path / 'comparison.md').read_text()
  assert (
    '| exits | calm | 80.0 ± 7.1 % | 60.0 ± 14.1 % (50 %) | '
    '60.0 ± 14.1 % (50 %) | 60.0 ± 14.1 % (50 %) |'
  ) in table
  assert '| exits | knows all losses | not reached | 45.0 ± 7.1 % |' in table
  assert 'What each signal needs' in (tmp_path / 'report.html').read_text()


def test_what_one_seed_does_not_reach_has_no_mean():
  results = results_of(max_prob=[(0.8, 1.01)])
  unknown = dataclasses.replace(results, clairvoyant=())
  runs = {
    seed: single(100.0, 2.0, seed)._replace(results=each)
    for seed, each in enumerate([knowing(results, 0.4), unknown])
  }
  found = study_signals.costs(['exits'], {'exits': runs})
  for cost in found:
    assert (cost.compute is None) == (cost.signal is None)
    assert cost.closed is None


def test_a_study_names_variants_that_there_are():
  with pytest.raises(ConfigError, match="'nobody', which is none"):
    Study('', '', {'exits': {}}, (0,), pairs=(), signals=('nobody',))


GATE = GateRow(
  'calm',
  'the last readout answers the same',
  1,
  4,
  error=0.0456,
  bins=(GateBin(0.12, 0.19, 1000), GateBin(0.87, 0.91, 999)),
)


def test_the_page_shows_what_gates_foretell(tmp_path):
  results = fake_run.results(gates=(GATE,))
  workdir = fake_run.write_run(tmp_path, results)
  write_report(workdir)
  html = (workdir / 'report.html').read_text(encoding='utf-8')
  for cell in ('layer 4', '1,999', '0.046'):
    assert f'<td>{cell}</td>' in html, cell
  assert '>calm, layer 4</text>' in (workdir / 'figures/gates.svg').read_text()
  assert results_lib.load(workdir / 'results.json') == results


def test_results_without_gates_say_nothing_of_them(tmp_path):
  workdir = fake_run.write_run(tmp_path)
  path = workdir / 'results.json'
  data = json.loads(path.read_text())
  del data['gates']  # as older files are
  path.write_text(json.dumps(data))
  write_report(workdir)
  html = (workdir / 'report.html').read_text(encoding='utf-8')
  assert 'foretold' not in html
