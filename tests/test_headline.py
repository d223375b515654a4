"""What a page says first: what holds, how certain it is, and nothing more."""

import dataclasses
import json
import re

import fake_run
import pytest

from ease_jax.evaluate.windows import Interval
from ease_jax.report import tables, words, write_report
from ease_jax.report.headline import as_good, headline, last_fall, smoke

PERCENT = '\u202f%'


def results(compute=0.8, ratio=1.01, low=None, high=None, highest_compute=0.81):
  """A run with this compute and perplexity, and intervals of both."""
  made_up = fake_run.with_report_side(compute, ratio)
  side = made_up.chosen.report
  intervals = dataclasses.replace(
    side.intervals,
    ppl_vs_full=Interval(low or ratio - 0.002, high or ratio + 0.002),
    compute=Interval(compute - 0.01, highest_compute),
  )
  side = dataclasses.replace(side, intervals=intervals)
  return dataclasses.replace(
    made_up, chosen=dataclasses.replace(made_up.chosen, report=side)
  )


@pytest.mark.parametrize(
  'fields, title',
  [
    (dict(ratio=0.99), '20.0 % less compute, 1.0 % lower perplexity'),
    (dict(ratio=1.01), '20.0 % less compute, 1.0 % higher perplexity'),
    (
      dict(ratio=1.01, low=0.999),
      '20.0 % less compute, perplexity not told apart',
    ),
    (
      dict(ratio=0.99, high=1.001),
      '20.0 % less compute, perplexity not told apart',
    ),
    (
      dict(ratio=1.0001, low=1.00005),
      '20.0 % less compute, perplexity the same',
    ),
    (dict(highest_compute=1.01), 'No saving'),
    (dict(compute=0.99999), 'No saving'),
  ],
)
def test_title(fields, title):
  assert headline(results(**fields)).title == title.replace(' %', PERCENT)


def test_numbers_come_with_their_intervals():
  lead = headline(results()).lead
  assert f'80.0{PERCENT} [79.0, 81.0]' in lead
  assert f'+1.0{PERCENT} [+0.8, +1.2]' in lead


def with_static(made_up, compute, ppl):
  """The run with another second readout."""
  row = dataclasses.replace(
    made_up.readouts[1], compute_static=compute, report=fake_run.quality(ppl)
  )
  readouts = (made_up.readouts[0], row, *made_up.readouts[2:])
  return dataclasses.replace(made_up, readouts=readouts)


def test_a_static_exit_that_does_as_well_is_said():
  made_up = results()
  ppl = made_up.chosen.report.quality.ppl
  assert as_good(made_up) is None
  for compute, its_ppl, good in (
    (0.8, ppl, True),
    (0.7, ppl - 0.1, True),
    (0.81, ppl - 0.1, False),
    (0.7, ppl + 0.01, False),
  ):
    run = with_static(made_up, compute, its_ppl)
    assert (as_good(run) is not None) == good
    title = headline(run).title
    assert (title == 'No saving over a static exit') == good


@pytest.mark.parametrize(
  'updates, tokens, reasons',
  [
    (200, 10_000, ''),
    (199, 10_000, '199 updates of the parameters (fewer than 200)'),
    (200, 9_999, '9 999 tokens scored (fewer than 10 000)'),
    (
      20,
      1_016,
      '20 updates of the parameters (fewer than 200) and 1 016 tokens scored '
      '(fewer than 10 000)',
    ),
  ],
)
def test_a_smoke_run_is_marked(updates, tokens, reasons, tmp_path):
  made_up = results()
  side = dataclasses.replace(made_up.chosen.report, tokens=tokens)
  made_up = dataclasses.replace(
    made_up,
    train=dataclasses.replace(made_up.train, updates=updates),
    chosen=dataclasses.replace(made_up.chosen, report=side),
  )
  assert smoke(made_up).replace('\u202f', ' ') == reasons
  assert headline(made_up).title.startswith('Smoke run: 20') == bool(reasons)
  page = write_report(fake_run.write_run(tmp_path, made_up))
  html = page.read_text(encoding='utf-8')
  assert ('class="warning"' in html) == bool(reasons)


def test_the_last_fall_of_the_loss():
  metrics = [
    {'step': 10, 'split': 'select', 'loss': 2.0},
    {'step': 20, 'split': 'select', 'loss': 1.9},
    {'step': 30, 'split': 'train', 'loss': 9.0},
  ]
  line = last_fall(metrics, 'select').replace('\u202f', ' ')
  assert line.startswith('The select loss fell by 5.0 % between')
  assert last_fall(metrics[:1], 'select') == ''


@pytest.mark.parametrize('freeze', ['model', 'nothing'])
def test_the_page_says_that_a_model_was_kept(tmp_path, freeze):
  workdir = fake_run.write_run(tmp_path)
  config = {'train': {'freeze': freeze}}
  (workdir / 'config.json').write_text(json.dumps(config))
  page = write_report(workdir).read_text(encoding='utf-8')
  assert ('The model was kept as it was' in page) == (freeze == 'model')


def test_the_page_names_thresholds_intervals_and_both_losses(tmp_path):
  page = write_report(fake_run.write_run(tmp_path))
  html = ' '.join(page.read_text(encoding='utf-8').split())
  text = re.sub('<[^>]*>', ' ', html)
  assert 'exit where it is at least 0.8, 0.8, never (of each readout)' in text
  assert '95 % of other windows' in text
  assert 'the weighted sum over the readouts' in text
  assert 'clairvoyant frontier' in text
  for word in ('oracle', 'bound'):
    assert word not in text


def test_gains_and_losses_are_worded_alike():
  for ratio, word in ((1.1, 'higher'), (1 / 1.1, 'lower')):
    certain = Interval(ratio - 0.01, ratio + 0.01)
    assert words.direction(ratio, certain) == word
    uncertain = Interval(0.9, 1.2)
    assert words.direction(ratio, uncertain) == 'not told apart'
    assert words.direction(ratio, None) == 'not told apart'
  assert words.change(1.1, None).endswith('(no interval)')


def test_different_thresholds_have_different_names():
  thresholds = [None, [0.123456, None], [0.123451, None], 0.5]
  texts = tables.threshold_texts(thresholds)
  assert texts == ['off', '0.123456, last', '0.123451, last', '0.5']
