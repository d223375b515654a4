"""What repeated layers are worth, from the runs of a study."""

import dataclasses
import math

import fake_run
import pytest
from test_study_page import double
from test_study_statistics import single

from ease_jax.checks import ConfigError
from ease_jax.evaluate.results import SegmentRow
from ease_jax.report.study import write_page
from ease_jax.study import recurrence, statistics
from ease_jax.study.study import Study

SEEDS = (1, 2, 3)


def by_seed(nll_S, segments=1, make=single):
  """Runs of these losses, after so many runs of their layers."""
  runs = {}
  for seed, nll in zip(SEEDS, nll_S, strict=True):
    run = make(50.0, nll, seed)
    model = dataclasses.replace(run.results.model, segments=segments)
    results = dataclasses.replace(run.results, model=model)
    runs[seed] = run._replace(results=results)
  return runs


TRIO = ('tied', 'once', 'own')


def trio(tied_S, segments=2):
  """Own layers gain 0.4 nats in each seed."""
  return {
    'tied': by_seed(tied_S, segments),
    'once': by_seed([2.0, 2.1, 2.2]),
    'own': by_seed([1.6, 1.7, 1.8]),
  }


def test_the_share_is_of_own_layers_gain():
  tied_S = [1.8, 1.8, 1.9]  # 0.2, 0.3 and 0.3 of 0.4
  (found,) = recurrence.recoveries([TRIO], trio(tied_S))
  assert found.share == pytest.approx(2 / 3)
  assert found.exponent == pytest.approx(math.log2(1 + 2 / 3))
  assert found.interval.low < 0.5 < 0.75 < found.interval.high
  assert found.seeds == SEEDS


def test_a_seed_whose_own_layers_gain_little_counts_little():
  """A ratio of means, and not a mean of ratios."""
  runs = trio([1.9, 2.0, 2.2])  # 0.1, 0.1 and 0
  runs['own'] = by_seed([1.6, 1.7, 2.19])
  (found,) = recurrence.recoveries([TRIO], runs)
  assert found.share == pytest.approx(0.2 / 0.81)


@pytest.mark.parametrize(
  'gain, runs, exponent', [(0.0, 2, 0.0), (0.4, 2, 1.0), (0.4, 4, 1.0)]
)
def test_runs_as_good_as_own_layers_have_an_exponent_of_one(
  gain, runs, exponent
):
  tied_S = [nll - gain for nll in (2.0, 2.1, 2.2)]
  (found,) = recurrence.recoveries([TRIO], trio(tied_S, runs))
  assert found.exponent == pytest.approx(exponent, abs=1e-9)


def test_runs_that_do_much_harm_have_no_exponent():
  (found,) = recurrence.recoveries([TRIO], trio([2.5, 2.6, 2.7]))
  assert found.share == pytest.approx(-1.25)
  assert found.exponent is None


def test_what_has_not_run_is_left_out():
  runs = trio([1.8, 1.8, 1.9])
  del runs['own'][2]
  (found,) = recurrence.recoveries([TRIO], runs)
  assert found.seeds == (1, 3)
  del runs['own']
  assert recurrence.recoveries([TRIO], runs) == ()
  assert recurrence.depths([('tied', ('once', 'own'))], {}) == ()


def after_each_run():
  """2.5 nats after the first of two runs, 1.9 after both."""

  def both(flops, nll, seed):
    del flops
    return double(2.5, nll, seed)

  return {
    'tied': by_seed([1.9] * 3, 2, both),
    'once': by_seed([2.0] * 3),
    'twice': by_seed([1.9] * 3),
  }


def test_each_run_is_held_against_a_model_trained_for_it():
  asked = [('tied', ('once', 'twice'))]
  first, second = recurrence.depths(asked, after_each_run())
  assert (first.run, first.twin) == (1, 'once')
  assert first.ratio == pytest.approx(math.exp(0.5))
  assert first.ppl.mean == pytest.approx(math.exp(2.5))
  assert first.twin_ppl.mean == pytest.approx(math.exp(2.0))
  assert first.interval.low == pytest.approx(math.exp(0.5))
  assert (second.run, second.twin) == (2, 'twice')
  assert second.ratio == pytest.approx(1)


def test_runs_that_make_the_whole_way_are_held_by_that():
  """2.1 nats where one run makes all of it, 2.5 after the first of two."""
  runs = after_each_run()
  for seed, evaluated in runs['tied'].items():
    results = evaluated.results
    whole = tuple(
      SegmentRow(run, fake_run.quality(9.0), fake_run.quality(math.exp(nll)))
      for run, nll in ((1, 2.1), (2, 1.9))
    )
    model = dataclasses.replace(results.model, elastic=True)
    results = dataclasses.replace(results, model=model, segments=whole)
    runs['tied'][seed] = evaluated._replace(results=results)

  first, second = recurrence.depths([('tied', ('once', 'twice'))], runs)
  assert first.ratio == pytest.approx(math.exp(0.1))
  assert first.ppl.mean == pytest.approx(math.exp(2.1))
  assert second.ratio == pytest.approx(1)
  assert first.interval is None
  assert second.interval.low == pytest.approx(1)

  # What was not evaluated is left out.
  for seed, evaluated in runs['tied'].items():
    results = dataclasses.replace(evaluated.results, segments=())
    runs['tied'][seed] = evaluated._replace(results=results)
  (only,) = recurrence.depths([('tied', ('once', 'twice'))], runs)
  assert only.run == 2


def test_the_page_has_both_tables(tmp_path):
  runs = after_each_run() | {'own': by_seed([1.6] * 3)}
  study = Study(
    'T',
    'Q?',
    {name: {} for name in runs},
    SEEDS,
    pairs=(),
    recoveries=(('tied', 'once', 'own'),),
    depths=(('tied', ('once', 'twice')),),
  )
  comparison = statistics.summarize(
    study, runs, [], fake_run.results().provenance
  )
  write_page(tmp_path, comparison)
  table = (tmp_path / 'comparison.md').read_text()
  assert '| tied | once | own | 3 | 25 % | 25 to 25 % | 0.32 |' in table
  assert '| tied | 1 | 3 | 12.182 ± 0.000 | once |' in table
  page = (tmp_path / 'report.html').read_text()
  assert 'What it brings to run layers again' in page
  assert 'After fewer runs' in page


@pytest.mark.parametrize(
  'asked',
  [{'recoveries': (('a', 'b', 'nobody'),)}, {'depths': (('a', ('nobody',)),)}],
)
def test_variants_are_named_that_there_are(asked):
  with pytest.raises(ConfigError, match="names 'nobody', which is none"):
    Study('T', 'Q?', {'a': {}, 'b': {}}, SEEDS, pairs=(), **asked)
