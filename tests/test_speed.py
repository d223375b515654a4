"""What is timed is what was evaluated; the times themselves are not tested."""

import json
import types

import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from ease_jax import config, decode
from ease_jax.core import costs
from ease_jax.data import Corpus
from ease_jax.evaluate import clock
from ease_jax.evaluate.sweep import Point
from ease_jax.model import exits
from ease_jax.model.exits import ExitSpec

INF = np.inf
LENGTH, WINDOWS = 8, 3
SHAPES = {
  'stack': dict(num_layers=4, readouts=(1, 2, 4)),
  'refine': dict(body='refine', segments=2, num_layers=2),
}


def setting(**changes):
  c = config.base()
  c.data.seq_len = LENGTH
  c.evaluate.speed_tokens = LENGTH * WINDOWS
  tokens = np.random.default_rng(0).integers(0, tiny.VOCAB, 97)
  corpus = Corpus(
    splits={'test': tokens.astype(np.int32)},
    source='',
    sha256='',
    tokenizer=types.SimpleNamespace(),
  )
  return c, tiny.body(**changes), corpus


def row(threshold, policy, **fields):
  return (
    dict(
      signal='max_prob',
      kv_policy=policy,
      threshold=threshold,
      ppl=4.0,
      split='test',
    )
    | fields
  )


def results(policy, num):
  chosen = row([0.4] * (num - 1) + [None], policy) | dict(
    report_split='test',
    test=dict(
      ppl=3.3,
      ppl_vs_full=1.1,
      exit_fraction=[0.25, 0.5] + [0.0] * (num - 3) + [0.25],
    ),
  )
  rows = [
    row(t, policy, compute=x, ppl=3 + t)
    for t, x in (
      (0.1, 0.3),
      (0.6, 0.8),
      (0.2, 0.4),
      (0.3, 0.5),
      (0.5, 0.7),
      (0.55, 0.75),
      (0.05, 0.2),
    )
  ]
  others = [
    row(None, policy, compute=1.0),
    row(0.9, policy, compute=0.9) | dict(split='select'),
    row(0.9, 'other', compute=0.9),
  ]
  return {'chosen': chosen, 'sweep': [*others, *rows]}


@pytest.mark.parametrize(
  'body, policy',
  [('stack', 'copy_state'), ('stack', 'recompute'), ('refine', 'latest')],
)
def test_the_clock_runs_on_what_was_evaluated(body, policy, monkeypatch):
  c, model, corpus = setting(**SHAPES[body])
  params, num = tiny.params(model), len(model.cfg.cells)
  runs = []
  timed = clock._timed

  def spy(given):
    seconds, found = timed(given)
    runs.extend(found)
    return seconds, found

  monkeypatch.setattr(clock, '_timed', spy)
  got = clock.measure(c, model, params, corpus, results(policy, num))
  json.dumps(got, allow_nan=False)
  assert got['tokens'] == LENGTH * WINDOWS
  points = got['points']
  assert [p['threshold'] for p in points] == [
    None,
    [0.4] * (num - 1) + [None],
    0.05,
    0.2,
    0.5,
    0.6,
  ]
  assert [p['chosen'] for p in points] == [False, True, *[False] * 4]
  assert points[0]['ppl'] == pytest.approx(3.0)
  assert [p['ppl'] for p in points[1:3]] == [3.3, 3.05]
  assert points[0]['speedup'] == points[0]['expected_speedup'] == 1
  # Every token stops where the exit-consistent pass has it stop.
  start_W = np.linspace(0, 11, WINDOWS).astype(int) * LENGTH
  tokens = np.stack([corpus.splits['test'][s : s + LENGTH] for s in start_W])
  for point, found in zip(points[1:], runs[1:], strict=True):
    exit = Point(
      ExitSpec('max_prob', policy),
      tuple([0.4] * (num - 1) + [INF])
      if point['chosen']
      else point['threshold'],
    )
    walk = exits.masked_pass(
      params,
      {'tokens': tokens, 'targets': tokens},
      jnp.asarray(exit.threshold_K(num)),
      model=model,
      spec=exit.spec,
    )
    np.testing.assert_array_equal(found, walk.exit_BxT)
    cost_K = costs.readout_costs(
      model.cfg, 4.5, policy, active=exit.threshold_K(num) < INF
    )
    spent = costs.full_flops(model.cfg, 4.5) / cost_K[found].mean()
    if policy == 'recompute':  # made up layers are charged
      assert 1 < point['expected_speedup'] < spent
    else:
      assert point['expected_speedup'] == pytest.approx(spent)
  assert (runs[0] == num - 1).all() and len(np.unique(runs[1])) > 1
  for p in points:
    low, high = p['tokens_per_second_low'], p['tokens_per_second_high']
    assert 0 < low <= p['tokens_per_second'] <= high


def test_a_head_must_stop_enough_tokens_to_pay():
  c, model, _ = setting(**SHAPES['stack'])
  cfg = model.cfg
  chosen = results('copy_state', 3)['chosen'] | {'threshold': [0.4, None, None]}
  first, second = clock._break_even(c, cfg, chosen)
  cell, head = costs.cell_flops(cfg, 4.5), costs.head_flops(cfg)
  fill = costs.kv_flops(cfg)
  # A token that stops at layer 1 is spared three layers, less their keys and
  # values, and the last head; one that goes on has paid a head for nothing.
  assert first['needed'] == pytest.approx(head / (3 * (cell - fill) + head))
  assert second['needed'] == pytest.approx(head / (2 * (cell - fill) + head))
  assert (first['stopped'], second['stopped']) == (0.25, 0.5 / 0.75)
  assert (first['active'], second['active']) == (True, False)
  assert (second['segment'], second['layer']) == (1, 2)
  # A cosine costs 6 D; its head comes when it has answered.
  first, _ = clock._break_even(c, cfg, chosen | {'signal': 'state_cosine'})
  assert first['needed'] == pytest.approx(6 * cfg.dim / (3 * (cell - fill)))
  assert not clock._break_even(c, cfg, chosen | {'kv_policy': 'recompute'})


def test_nothing_is_timed_unless_asked():
  c, model, corpus = setting(**SHAPES['stack'])
  c.evaluate.speed_tokens = 0
  assert clock.measure(c, model, {}, corpus, {}) is None


def test_a_split_shorter_than_a_window_cannot_be_timed():
  c, model, corpus = setting(**SHAPES['stack'])
  c.data.seq_len = 100
  with pytest.raises(config.ConfigError) as error:
    clock.measure(c, model, {}, corpus, {})
  assert str(error.value) == (
    'the test split has 97 tokens, less than a window of data.seq_len=100 '
    'to time; set evaluate.speed_tokens=0'
  )


def test_the_fastest_way_to_draft_is_the_one_that_took_least(monkeypatch):
  _, model, _ = setting(**SHAPES['stack'])
  variables = {'params': tiny.params(model)}
  drafts = [decode.Draft(0, 2), decode.Draft(1, 3)]
  ticks = iter(
    [  # start and end of each run in each round
      x for _ in range(clock.ROUNDS) for x in (0, 5, 0, 3, 0, 4)
    ]
  )
  monkeypatch.setattr(clock.time, 'perf_counter', lambda: next(ticks))
  best, seconds = clock.fastest_draft(
    model,
    variables,
    [[1, 2], [3]],
    drafts,
    options=decode.Options(max_new_tokens=3, context=LENGTH),
  )
  assert best == drafts[0]
  assert seconds == {None: 5, drafts[0]: 3, drafts[1]: 4}
