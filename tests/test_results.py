"""results.json and passage.json: their form, and files of another one."""

import json
import math

import fake_run
import pytest

from ease_jax.checks import ConfigError
from ease_jax.core.policies import OperatingPoint
from ease_jax.evaluate import passage, results
from ease_jax.evaluate.results import REPORT, SELECT, Results, exits_early

NEVER = fake_run.NEVER


def as_file(path, data):
  path.write_text(json.dumps(data, allow_nan=False))
  return path


def test_results_are_a_file_and_back(tmp_path):
  before = fake_run.results(speed=fake_run.speed())
  path = as_file(tmp_path / 'results.json', before.to_json())
  assert results.load(path) == before


def test_the_passage_is_a_file_and_back(tmp_path):
  before = fake_run.passage()
  path = as_file(tmp_path / 'passage.json', before.to_json())
  assert passage.load(path) == before


def test_the_sections_of_the_file():
  assert list(fake_run.results().to_json()) == [
    'seed',
    'model',
    'data',
    'train',
    'readouts',
    'sweep',
    'chosen',
    'clairvoyant',
    'calibration',
    'segments',
    'speed',
    'provenance',
    'routers',
    'gates',
  ]


def test_a_row_of_the_sweep_is_flat():
  point = OperatingPoint('max_prob', 'recompute', 0.5)
  row = fake_run.row(SELECT, point, 0.7, 1.0).to_json()
  assert list(row) == [
    'split',
    'signal',
    'kv_policy',
    'threshold',
    'nll',
    'ppl',
    'bits_per_byte',
    'accuracy',
    'compute',
    'layer_fraction',
    'mean_readout',
    'exit_fraction',
    'compute_uncharged',
  ]
  assert row['threshold'] == 0.5
  assert row['split'] == 'select'


def test_exits_off_are_one_row_per_split_and_three_nulls():
  rows = fake_run.results().to_json()['sweep']
  off = [row for row in rows if row['threshold'] is None]
  assert [row['split'] for row in off] == ['select', 'report']
  for row in off:
    assert row['signal'] is None
    assert row['kv_policy'] is None


def test_the_row_with_exits_off_of_each_split():
  made_up = fake_run.results()
  for split in (SELECT, REPORT):
    row = made_up.off(split)
    assert row.point is None
    assert row.split == split


def test_a_threshold_that_is_never_reached_is_null():
  point = OperatingPoint('max_prob', 'copy_state', (0.5, NEVER, NEVER))
  row = fake_run.row(SELECT, point, 0.7, 1.0)
  assert row.to_json()['threshold'] == [0.5, None, None]
  assert type(row).from_json(row.to_json()) == row


def test_a_threshold_that_is_always_reached_stays_one():
  """A signal without a lowest score, such as kl, may stop everybody."""
  point = OperatingPoint('kl', 'copy_state', (-NEVER, NEVER, NEVER))
  text = json.dumps(point.to_json(), allow_nan=False)
  again = OperatingPoint.from_json(json.loads(text))
  assert again == point
  assert exits_early(again)


@pytest.mark.parametrize(
  'threshold, exits',
  [
    (0.5, True),
    (NEVER, False),
    ((0.5, NEVER), True),
    ((NEVER, NEVER, 0.5), False),  # the last one is ignored
  ],
)
def test_who_may_exit_early(threshold, exits):
  point = OperatingPoint('max_prob', 'copy_state', threshold)
  assert exits_early(point) == exits
  assert not exits_early(None)


@pytest.mark.parametrize(
  'threshold', [math.nan, '0.5', None, True, (0.5, math.nan), [0.5]]
)
def test_a_threshold_is_a_number(threshold):
  with pytest.raises(ConfigError, match='^exit threshold='):
    OperatingPoint('max_prob', 'copy_state', threshold)


@pytest.mark.parametrize('number', [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_are_refused(tmp_path, number):
  tree = fake_run.results().to_json()
  tree['train']['wall_s'] = number
  path = tmp_path / 'results.json'
  path.write_text(json.dumps(tree))
  with pytest.raises(ConfigError, match='is no number there'):
    results.load(path)


def test_a_file_of_an_older_version_is_one_clear_line(tmp_path):
  data = fake_run.results().to_json()
  data['chosen']['test'] = data['chosen'].pop('report')
  path = as_file(tmp_path / 'results.json', data)
  with pytest.raises(ConfigError) as error:
    results.load(path)
  assert str(error.value) == (
    f'{path} is of an older version, in which the split that reports was '
    'always called "test"; run --mode=evaluate again'
  )


@pytest.mark.parametrize('key', ['speed', 'sweep', 'provenance'])
def test_a_file_that_lacks_a_section_is_one_clear_line(tmp_path, key):
  data = fake_run.results().to_json()
  del data[key]
  path = as_file(tmp_path / 'results.json', data)
  with pytest.raises(ConfigError) as error:
    results.load(path)
  assert str(error.value) == (
    f"{path} is of another version: it lacks '{key}'; run --mode=evaluate again"
  )


def test_unknown_keys_of_a_newer_version_are_left_alone():
  data = fake_run.results().to_json()
  data['sweep'][0]['news'] = 1
  assert Results.from_json(data) == fake_run.results()
