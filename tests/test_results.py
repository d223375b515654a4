"""What a run says about its exits: chosen on select, reported on test."""

import json
import types

import numpy as np
import pytest

import tiny
from ease_jax import config
from ease_jax.data import Corpus
from ease_jax.evaluate import results, sweep

RATIO = 1.3


@pytest.fixture(scope='module', params=['stack', 'refine'])
def evaluated(request):
  segments = 2 if request.param == 'refine' else 1
  model = tiny.body(
    body=request.param, segments=segments, num_layers=4 // segments
  )
  c = config.base()
  c.model.segments = segments
  c.data.seq_len = 8
  c.evaluate.batch_size = 4
  c.exit.signals, c.exit.search_points = ('max_prob',), 2
  c.exit.max_ppl_ratio = RATIO
  rng = np.random.default_rng(0)
  make = lambda n: rng.integers(0, tiny.VOCAB, n).astype(np.int32)
  corpus = Corpus(
    splits={'select': make(200), 'test': make(160)},
    source='random',
    sha256='',
    tokenizer=types.SimpleNamespace(
      token_bytes=np.ones(tiny.VOCAB), token_text=chr
    ),
  )
  measure = sweep.Split.measure

  def reversed_on_test(self, point):
    # So that a choice made on test would be another one.
    row = measure(self, point)
    if self.name == 'test':
      row['compute'] = 2 - row['compute']
    return row

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sweep.Split, 'measure', reversed_on_test)
    found, passage = results.evaluate_run(c, model, tiny.params(model), corpus)
  return c, model, found, passage


def test_the_point_is_chosen_on_select_and_reported_on_test(evaluated):
  c, _, found, _ = evaluated
  json.dumps(found, allow_nan=False)
  half = len(found['sweep']) // 2
  select, test = found['sweep'][:half], found['sweep'][half:]
  key = lambda row: (row['signal'], row['kv_policy'], str(row['threshold']))
  assert {r['split'] for r in select} == {'select'}
  assert {r['split'] for r in test} == {'test'}
  assert list(map(key, select)) == list(map(key, test))
  own = [i for i, r in enumerate(select) if r['kv_policy'] == 'copy_state']
  full = next(select[i] for i in own if select[i]['threshold'] is None)
  allowed = [i for i in own if select[i]['ppl'] <= RATIO * full['ppl']]
  best = min(allowed, key=lambda i: select[i]['compute'])
  chosen = found['chosen']
  assert chosen['threshold'] == select[best]['threshold']
  for side, row in (('select', select[best]), ('test', test[best])):
    for name in ('ppl', 'compute', 'exit_fraction'):
      assert chosen[side][name] == row[name]
  # The other split would have chosen something else.
  other = next(test[i] for i in own if test[i]['threshold'] is None)
  there = [i for i in own if test[i]['ppl'] <= RATIO * other['ppl']]
  assert best != min(there, key=lambda i: test[i]['compute'])


def test_rows_name_their_cells(evaluated):
  _, model, found, passage = evaluated
  cells = [(r['segment'], r['layer']) for r in found['readouts']]
  assert cells == list(model.cfg.cells)
  assert [(r['segment'], r['layer']) for r in found['calibration']] == cells
  fractions = [r['layer_fraction'] for r in found['readouts']]
  assert fractions == [0.25, 0.5, 0.75, 1.0]
  segments = [row['segments'] for row in found['segments']]
  assert segments == ([] if model.cfg.segments == 1 else [1, 2, 3, 4])
  for token in passage['tokens']:
    assert cells[token['exit']] == (token['segment'], token['layer'])
  assert sweep.operating_point(found['chosen']).spec.policy == 'copy_state'
