"""A study's page and tables, whatever its variants are called."""

import dataclasses
import math
import re

import fake_run
import pytest
from test_study_statistics import single

from ease_jax.report.study import write_page
from ease_jax.study import statistics
from ease_jax.study.study import Study

NAMES = (r'cost $\x$', '_hidden', 'a | b', '<i>c</i>', '$3')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('study')
  variants = {name: {'field': i} for i, name in enumerate(NAMES)}
  seeds = (1, 2, 3)
  runs_of = {
    name: {seed: single(50.0 + i, 2 + 0.1 * i, seed) for seed in seeds}
    for i, name in enumerate(NAMES)
  }
  pairs = tuple((name, NAMES[0]) for name in NAMES[1:])
  study = Study(
    'T', 'Q?', variants, seeds, pairs, frontier=(NAMES[0], NAMES[4])
  )
  comparison = statistics.summarize(
    study, runs_of, [], fake_run.results().provenance
  )
  write_page(folder, comparison)
  return folder


def test_figures_show_every_name_as_it_is(folder):
  dots = (folder / 'figures' / 'perplexities.svg').read_text()
  legend = (folder / 'figures' / 'frontier.svg').read_text()
  assert r'>cost $\x$</text>' in dots
  assert '>$3</text>' in dots
  assert '>\u200b_hidden</text>' in legend
  assert '>a | b</text>' in legend


def test_tables_keep_their_columns(folder):
  lines = (folder / 'comparison.md').read_text().splitlines()
  tables = ' '.join(lines or ['']).count('---:')
  assert tables
  for table in '\n'.join(lines).split('\n\n'):
    rows = table.strip().splitlines()
    cells = {len(re.split(r'(?<!\\)\|', row)) for row in rows}
    assert len(cells) == 1
  assert r'| a \| b |' in '\n'.join(lines)


def test_readouts_are_held_against_each_other(folder, tmp_path):
  """The last as in the other table; not at all where there is one."""
  assert 'At every readout' not in (folder / 'report.html').read_text()
  runs_of = {
    'a': {seed: double(3.0, 2.0, seed) for seed in (1, 2)},
    'b': {seed: double(2.7, 2.0, seed) for seed in (1, 2)},
    'c': {seed: single(50.0, 1.9, seed) for seed in (1, 2)},
  }
  study = Study(
    'T', 'Q?', {name: {} for name in runs_of}, (1, 2), (('b', 'a'), ('c', 'a'))
  )
  comparison = statistics.summarize(
    study, runs_of, [], fake_run.results().provenance
  )
  alike, unlike = comparison.pairs
  assert unlike.readouts == ()
  first, last = alike.readouts
  assert first.ratio == pytest.approx(math.exp(-0.3))
  assert first.interval.high == pytest.approx(math.exp(-0.3))
  assert (last.ratio, last.interval) == (alike.ratio, alike.interval)
  assert [s.mean for s in comparison.variants[0].readouts] == pytest.approx(
    [math.exp(3.0), math.exp(2.0)]
  )
  write_page(tmp_path, comparison)
  table = (tmp_path / 'comparison.md').read_text().split('\n\n')[-1]
  rows = [row.split('|')[1:-1] for row in table.strip().splitlines()]
  assert rows[0][1].strip() == 'readout 1' and len(rows) == 2 + 3 + 1
  assert rows[5][0].strip() == 'b against a' and '-25.9' in rows[5][1]
  assert 'At every readout' in (tmp_path / 'report.html').read_text()


def double(first, last, seed):
  """A run of two readouts, by the losses of both."""
  run = single(50.0, last, seed)
  early = single(50.0, first, seed)
  readouts = *early.results.readouts, *run.results.readouts
  sums = *early.windows.readouts, *run.windows.readouts
  return run._replace(
    results=dataclasses.replace(run.results, readouts=readouts),
    windows=dataclasses.replace(run.windows, readouts=sums),
  )


def test_smoke_runs_are_marked(folder, tmp_path):
  text = (folder / 'report.html').read_text()
  assert 'Smoke runs: ' not in text
  run = single(50.0, 2.0)
  train = dataclasses.replace(run.results.train, updates=20)
  run = run._replace(results=dataclasses.replace(run.results, train=train))
  study = Study('T', 'Q?', {'a': {}}, (0,), ())
  comparison = statistics.summarize(
    study, {'a': {0: run}}, [], fake_run.results().provenance
  )
  page = write_page(tmp_path, comparison).read_text()
  assert 'Smoke runs: 20 updates of the parameters (fewer than 200).' in page


def test_the_page_says_what_is_told_apart(folder):
  html = (folder / 'report.html').read_text()
  assert 'Pairs of variants: 4. The first has a lower perplexity' in html
  assert 'a higher one in 4, and they are not told apart in 0.' in html
  assert '<i>c</i>' not in html
  assert 'field=3' in html
  assert 'class="warning"' not in html
  for old in ('Holm', 'in every seed', 'paired t-test'):
    assert old not in html
