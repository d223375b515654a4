"""The report's section on speed, and what all pages have in common."""

import dataclasses
import re

import fake_run
import markupsafe
import pytest

from ease_jax.report import write_report


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = fake_run.write_run(tmp_path_factory.mktemp('run'))
  write_report(workdir)
  return workdir


@pytest.fixture(scope='module')
def timed(tmp_path_factory):
  """The same run with a measured decoder."""
  return report(tmp_path_factory.mktemp('timed'), fake_run.speed())


def report(workdir, speed):
  results = fake_run.results(speed=speed)
  write_report(fake_run.write_run(workdir, results))
  return workdir


def page(workdir):
  return (workdir / 'report.html').read_text(encoding='utf-8')


def section(workdir):
  """The section on speed, or None."""
  pattern = r'<section>\s*<h2>Speed</h2>.*?</section>\s*'
  match = re.search(pattern, page(workdir), re.S)
  return match and match[0]


def words(html):
  """What is read: no tags, no drawings, every space the same."""
  text = re.sub(r'<svg.*?</svg>|<[^>]*>', ' ', html, flags=re.S)
  return ' '.join(markupsafe.Markup(text).unescape().split())


@pytest.mark.parametrize('name', ['run', 'timed'])
def test_page_asks_the_network_for_nothing(name, request):
  html = page(request.getfixturevalue(name))
  assert not re.search(r'\b(src|href)\s*=\s*(?!"#)', html)
  assert not re.search(r'url\((?!#)', html)
  assert '@import' not in html
  assert '<script src' not in html
  # The only address left is one that the passage's own text contains.
  assert 'http' not in re.sub(r'<span class="t.*?</span>', '', html)


@pytest.mark.parametrize('name', ['run', 'timed'])
def test_ids_of_the_page_are_unique_and_references_resolve(name, request):
  html = page(request.getfixturevalue(name))
  ids = re.findall(r'\bid="([^"]*)"', html)
  assert len(ids) == len(set(ids))
  assert set(re.findall(r'(?:href="|url\()#([\w-]+)', html)) <= set(ids)


def test_speed_is_told_beside_what_was_expected(timed):
  text = words(section(timed))
  for fact in (
    'At the chosen thresholds the decoder writes 7 400 tokens a second '
    'instead of 6 100: 1.21 times as fast, where the FLOPs promise 1.36 '
    'times on these tokens.',
    '1 016 tokens per point and round, 5 rounds, batch size 1, contexts of 1 '
    'to 127 tokens, on cpu <A&B>',
    'off 3.220 6 100 (6 010–6 210) 1.00 100.0 % 1.00 100.0 %',
    '0.95, 0.74, never, last (chosen) 3.246 7 400 (7 310–7 510) 1.21 73.5 % '
    '1.36 89.2 %',
    '0.2 5.152 12 346 (12 256–12 456) 2.02 32.3 % 3.10 65.3 %',
    'One head costs as much as 0.33 layers.',
  ):
    assert fact in text, fact
  assert 'No saving' not in text


def test_readout_pays_where_enough_tokens_stop(timed):
  assert words(section(timed)).endswith(
    'layer 2 5.0 % 31.0 % pays layer 4 35.0 % 30.0 % does '
    'not pay layer 6 10.0 % – never asked'
  )


@pytest.mark.parametrize('speedup', [0.93, 1.0199])
def test_no_saving_on_the_clock_is_said_plainly(tmp_path, speedup):
  speed = fake_run.speed(chosen_rate=6100 * speedup)
  text = words(section(report(tmp_path, speed)))
  promise = f'{speedup:.2f} times as fast, where the FLOPs promise 1.36 times'
  assert promise in text
  assert text.startswith('Speed No saving on the clock: at the chosen')


def test_speed_of_a_run_that_never_exits(tmp_path):
  speed = fake_run.speed()
  full = dataclasses.replace(speed.points[0], chosen=True)
  speed = dataclasses.replace(speed, points=(full,), break_even=())
  text = words(section(report(tmp_path, speed)))
  assert text.startswith('Speed No saving on the clock: no token stops early')
  assert 'instead of' not in text
  assert 'One head' not in text


def test_speed_figure_shows_every_point_of_use(timed):
  wide = (timed / 'figures' / 'speed.svg').read_text(encoding='utf-8')
  for text in (
    'tokens per second',
    'perplexity (test)',
    'measured speed-up',
    'as expected',
    'without exits',
    'chosen point',
  ):
    assert f'>{text}</text>' in wide, text

  html = section(timed)
  assert html.count('<svg') == 2
  assert 'class="narrow"' in html
  # 0.2 is off the figure, and the page says so.
  assert 'only in the table' in words(html)


def test_page_without_speed_is_the_page_as_before(run, timed):
  assert section(run) is None
  assert not (run / 'figures' / 'speed.svg').exists()
  assert page(run) == page(timed).replace(section(timed), '')
