"""The sweep: what it tries, and which point is chosen."""

import math
import types

import numpy as np
import pytest
import sweeps
from sweeps import NEVER, point, row, spec

from ease_jax import config
from ease_jax.checks import ConfigError
from ease_jax.evaluate import search, sweep
from ease_jax.evaluate.sweep import Choice, SweepSpec

FULL = 10.0
ROWS = [
  row(point(0.5, 'recompute'), 9.0, 0.2),  # another policy's numbers
  row(None, FULL, 1.0),
  row(point(0.9), 10.05, 0.9),
  row(point(0.8), 10.099, 0.7),
  row(point(0.7), 10.2, 0.6),
  row(point(0.6), 10.3, 0.5),
]


@pytest.mark.parametrize(
  'choice, best, text',
  [
    (Choice(1.01, 0.0), 3, 'lowest compute with select ppl <= 1.01 x full'),
    (Choice(1.0, 0.0), 1, 'lowest compute with select ppl <= 1 x full'),
    (Choice(1.01, 0.65), 4, 'lowest select ppl at compute <= 0.65'),
  ],
)
def test_the_choice_is_among_rows_of_its_policy(choice, best, text):
  assert choice.best(ROWS, 'copy_state') == best
  assert str(choice) == text


def test_exits_off_can_be_chosen_under_every_policy():
  assert Choice(1.0, 0.0).best(ROWS, 'drop') == 1


def test_a_compute_nobody_reaches_is_an_error():
  with pytest.raises(ConfigError, match=r'0\.4 .* 0\.500; raise it'):
    Choice(1.01, 0.4).best(ROWS, 'copy_state')


def curve(price):
  """On it a higher price means less compute and a higher perplexity."""
  return row(point(0.5), FULL * (1 + 0.1 * price**2), 1 - 0.6 * price)


@pytest.mark.parametrize(
  'choice', [Choice(1.01, 0.0), Choice(1.01, 0.65)], ids=['ppl', 'compute']
)
def test_bisecting_on_more_exits_ends_at_the_limit(choice):
  low = 0.0
  high = 1.0
  for _ in range(30):
    price = (low + high) / 2
    if choice.wants_more_exits(curve(price), FULL):
      low = price
    else:
      high = price

  end = curve(low)
  if choice.max_compute:
    assert end.cost.compute == pytest.approx(choice.max_compute)
  else:
    assert end.quality.ppl / FULL == pytest.approx(choice.max_ppl_ratio)


@pytest.mark.parametrize(
  'signal, share, expected',
  [
    ('max_prob', 1.0, (0.2, NEVER, 0.6, NEVER)),
    ('max_prob', 0.5, (0.6, NEVER, 0.8, NEVER)),
    ('kl', 0.5, (0.1, NEVER, 0.3, NEVER)),
    # No score is the highest possible one: 3 was seen.
    ('gain', 0.5, (1.6, NEVER, 1.8, NEVER)),
    ('patience', 0.5, (1.6, NEVER, 1.8, NEVER)),
  ],
)
def test_tightened_thresholds_are_nearer_to_the_highest_score(
  signal, share, expected
):
  before = point((0.2, NEVER, 0.6, NEVER), signal=signal)
  score_RxT = [[-math.inf, 3.0, 50.0]]  # the last one is padding
  last_RxT = [[70.0, 70.0, 70.0]]
  dump = types.SimpleNamespace(
    score_KxRxT={signal: np.asarray([score_RxT, last_RxT])},
    mask_RxT=np.asarray([[1.0, 1.0, 0.0]]),
  )
  top = search.highest_score(dump, signal)
  after = search.tightened(before, share, top)
  assert after.threshold == pytest.approx(expected)


def test_a_jump_across_the_limit_is_drawn_back_to_it():
  choice = Choice(1.01, 0.0)
  beyond = point((0.68, NEVER))  # 0.32 of exits, 0.316 are allowed

  def measure(at):
    return curve(1 - at.threshold[0])

  def wants_more(row):
    return choice.wants_more_exits(row, FULL)

  def drawn_back(share):
    return search.tightened(beyond, share, 1.0)

  visited = list(
    search.bisect(drawn_back, 0.75, 1.0, measure, wants_more, num=12)
  )
  assert len(visited) == 12
  last = visited[-1].row
  assert last.quality.ppl == pytest.approx(1.01 * FULL, rel=1e-4)


def test_signals_without_a_limit_are_drawn_back_to_it_as_well(monkeypatch):
  beyond = point((0.68, NEVER), signal='gain')
  monkeypatch.setattr(search, 'at_price', lambda *arguments: beyond)
  scores_KxRxT = np.asarray([[[0.1, 0.68, 1.0]], [[9.0, 9.0, 9.0]]])
  select = types.SimpleNamespace(
    task=types.SimpleNamespace(unit='token'),
    dump=types.SimpleNamespace(
      score_KxRxT={'gain': scores_KxRxT}, mask_RxT=np.ones((1, 3))
    ),
    measure=lambda at: curve(1 - at.threshold[0]),
  )
  asked = spec(signals=('gain',), search_points=12)

  *_, (last, at_limit) = search.searched_points(asked, select, FULL)
  assert 0.68 < last.threshold[0] < 1.0
  assert at_limit.quality.ppl == pytest.approx(1.01 * FULL, rel=1e-4)


def test_every_policy_signal_and_threshold_is_tried_once():
  tried = spec(signals=('max_prob', 'kl'), thresholds={'max_prob': (0.5,)})
  points = list(sweep.scalar_points(tried, 'token'))
  assert points.count(None) == 1
  assert len(points) == len(set(points))

  own = [at for at in points if at and at.policy == 'copy_state']
  assert [at.signal for at in own] == ['max_prob', *['kl'] * 6]
  assert [at.threshold for at in own] == [
    0.5,
    -1.0,
    -0.3,
    -0.1,
    -0.03,
    -0.01,
    -0.003,
  ]


def test_a_sequence_exits_as_one_where_the_task_says_so():
  points = sweep.scalar_points(spec(), 'sequence')
  assert {at.unit for at in points if at} == {'sequence'}


def test_the_spec_of_the_default_config():
  made = SweepSpec.from_config(config.base())
  assert made.signals == ('max_prob', 'margin', 'entropy')
  assert made.policy == 'copy_state'
  assert made.tried('max_prob')[:2] == (0.0, 0.3)
  assert made.choice == Choice(1.01, 0.0)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'signals': ('nobody',)}, "holds 'nobody', which is unknown; use one of"),
    (
      {'thresholds': {'max_prob': (0.5, 1.5)}},
      'exit.thresholds.max_prob contains 1.5, outside the range [0.0, 1.0]',
    ),
    ({'policies': ()}, 'exit.policies=() names no K/V policy'),
    ({'policies': ('copy',)}, "holds 'copy', which is unknown; use one of"),
    (
      {'policy': 'drop'},
      "exit.policy='drop' is not in exit.policies=('recompute', 'copy_state')",
    ),
    ({'max_ppl_ratio': 0.9}, 'exit.max_ppl_ratio=0.9 must be at least 1'),
    ({'max_compute': -1.0}, 'exit.max_compute=-1.0 must be at least 0'),
    ({'batch_size': 0}, 'evaluate.batch_size=0 must be at least 1'),
    ({'segments': -1}, 'evaluate.segments=-1 must be at least 0'),
    ({'select_split': 'dev'}, "evaluate.select_split='dev' is unknown"),
    ({'report_split': 'select'}, 'use two splits'),
    (
      {'report_split': 'train'},
      'neither says what the model is worth; use test',
    ),
    (
      {'select_split': 'test', 'report_split': 'select'},
      'neither says what the model is worth; use test',
    ),
  ],
)
def test_mistakes_are_one_line(changes, message):
  with pytest.raises(ConfigError) as error:
    spec(**changes)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


def test_never_and_at_once_are_thresholds_of_every_signal():
  both = (-math.inf, math.inf)
  assert spec(thresholds={'max_prob': both}).thresholds['max_prob'] == both


def test_thresholds_are_not_reported_where_they_were_chosen():
  for split in ('train', 'select', 'test'):
    with pytest.raises(ConfigError, match='use two splits'):
      spec(select_split=split, report_split=split)


def test_rows_are_json_and_back():
  never_or_always = point((-math.inf, 0.2, NEVER, NEVER))
  for at in (
    None,
    point(0.5),
    point((0.2, NEVER, NEVER)),
    never_or_always,
    point(NEVER),
    point(-math.inf),
  ):
    before = sweeps.row(at, 3.0, 0.7)
    assert type(before).from_json(before.to_json()) == before
