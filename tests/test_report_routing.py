"""The page on which tokens run the layers that have a router."""

import dataclasses
import re

import fake_run
import pytest

from ease_jax.evaluate.facts import RouterRow
from ease_jax.report import write_report

TITLE = 'Which tokens run the routed layers'
ROWS = (RouterRow(1, 2, 0.123, 0.456), RouterRow(1, 4, 0.5, 0.1))


TOKENS = range(len(fake_run.SOURCE))


def met(i):
  """Routed layers on the way of a token to the readout that answers it."""
  readout = fake_run.passage().tokens[i].layer
  return sum(row.layer <= readout for row in ROWS)


def page_of(workdir):
  write_report(workdir)
  return (workdir / 'report.html').read_text(encoding='utf-8')


@pytest.fixture
def routed_run(tmp_path, monkeypatch):
  passage = fake_run.passage()
  tokens = [
    dataclasses.replace(token, ran=i % 3 % (met(i) + 1))
    for i, token in enumerate(passage.tokens)
  ]
  routed = dataclasses.replace(passage, tokens=tuple(tokens))
  monkeypatch.setattr(fake_run, 'passage', lambda: routed)
  results = dataclasses.replace(fake_run.results(), routers=ROWS)
  return fake_run.write_run(tmp_path, results)


def test_a_run_with_routers_shows_who_ran_what(routed_run):
  html = page_of(routed_run)
  assert re.search(r'Routers alone leave [\d.]+\s%\sof full depth', html)
  assert TITLE in html
  for share in ('12.3', '45.6', '50.0', '10.0'):
    assert f'<td>{share}\u202f%</td>' in html, share

  shown = re.search(r'aria-label="Routed passage">(.*?)</div>', html, re.S)[1]
  skipped = re.findall(r'<span class="t r(\d)', shown)
  assert skipped == [str(met(i) - i % 3 % (met(i) + 1)) for i in TOKENS]
  assert shown.count('passed 1 of 2 routed layers by') > 0
  assert shown.count('passed 0 of 1 routed layers by') > 0
  # Nothing between the tokens, or pre-wrap would show it.
  assert re.sub(r'<span.*?</span>', '', shown, flags=re.S) == ''
  assert all(f'.r{k} {{' in html for k in range(3))


def test_a_run_without_says_nothing_of_them(tmp_path):
  html = page_of(fake_run.write_run(tmp_path))
  assert TITLE not in html
  assert '.r0 {' not in html
