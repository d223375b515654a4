"""Scores of tasks beside what they cost, from what the harness returns."""

import json

import numpy as np
import pytest

from ease_jax.core.policies import OperatingPoint
from ease_jax.decode.charges import Bill
from ease_jax.evaluate import task_scores
from ease_jax.evaluate.task_scores import Found, TaskScores

POINT = OperatingPoint('max_prob', 'copy_state', (0.5, np.inf))


def found(acc, share):
  """Two tasks, a group of both, and one whose metric is no number."""
  metrics = {'alias': 'x', 'sample_len': 3, 'acc_stderr,none': 0.125}
  harness = {
    'results': {
      'words': metrics | {'acc,none': acc},
      'sums': {
        'exact_match,strict': acc / 2,
        'exact_match_stderr,strict': 'N/A',
      },
      'lost': {'perplexity,none': float('inf')},
    },
    'groups': {'all': {'acc,none': acc}},
    'group_subtasks': {'all': ['inner', 'lost'], 'inner': ['words', 'sums']},
    'versions': {'words': 1.0},
    'n-shot': {'words': 5},
    'n-samples': {'words': {'original': 10, 'effective': 3}},
    'higher_is_better': {'words': {'acc': True}},
  }
  bills = {
    'words': {'compute': Bill(10, 100 * share, 100)},
    'sums': {'compute_decoder': Bill(2, 60.0, 60)},
    'lost': {'compute': Bill(1, 40.0, 40)},
  }
  return Found(harness, bills)


def scores(chosen, point=POINT):
  settings = [found(0.5, 1.0)]
  if chosen:
    settings.append(found(0.25, 0.4))
  rows = task_scores.rows(*settings)
  return TaskScores('runs/r', '0.1', '0.4', 3, point, rows)


def test_compute_stands_beside_every_score_of_the_file():
  whole = scores(chosen=True)
  row = json.loads(json.dumps(whole.to_json()))['rows'][0]
  assert row == {
    'task': 'words',
    'metric': 'acc',
    'filter': 'none',
    'higher_is_better': True,
    'version': '1.0',
    'shots': 5,
    'documents': 3,
    'counted': 'compute',
    'full': {'value': 0.5, 'stderr': 0.125, 'compute': 1.0, 'tokens': 10},
    'chosen': {'value': 0.25, 'stderr': 0.125, 'compute': 0.4, 'tokens': 10},
  }
  assert TaskScores.from_json(whole.to_json()) == whole


def test_a_group_costs_what_its_tasks_cost():
  of_task = {row.task: row for row in scores(chosen=True).rows}
  assert list(of_task) == ['words', 'sums', 'lost', 'all']
  group = of_task['all']
  assert group.counted == 'compute + compute_decoder'
  assert group.full.compute == 1 and group.full.tokens == 13
  assert group.chosen.compute == pytest.approx(140 / 200)
  assert of_task['lost'].full.value is None
  assert of_task['sums'].full.stderr is None


def test_compute_stands_beside_every_score_of_the_table():
  lines = str(scores(chosen=True)).splitlines()
  *table, legend = lines
  assert [line.split('  ')[0] for line in table] == [
    'task',
    'words',
    'sums',
    'lost',
    'all',
  ]
  assert table[1].split() == (
    'words acc 0.5000 (0.1250) 100.0% 0.2500 (0.1250) 40.0% compute'.split()
  )
  assert 'exact_match, strict ' in table[2]
  assert table[3].split()[2:] == 'none 100.0% none 100.0% compute'.split()
  assert table[4].endswith('  70.0%  compute + compute_decoder')
  for head in ('full depth', 'with exits'):
    end = table[0].index(head) + len(head)
    assert all(line[end : end + 2] == '  ' for line in table)
  assert legend.startswith('[exits: max_prob, copy_state; ')


def test_a_run_without_exits_has_scores_of_full_depth():
  whole = scores(chosen=False, point=None)
  assert whole.to_json()['rows'][0]['chosen'] is None
  lines = str(whole).splitlines()
  assert lines[1].split() == 'words acc 0.5000 (0.1250) 100.0% compute'.split()
  assert lines[-1].startswith('[the run chose no exits; ')
