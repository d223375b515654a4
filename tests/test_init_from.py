"""Runs that start from another one, and gates on a model that is kept."""

import json
import shutil

import jax
import numpy as np
import pytest
import small_run

import tiny
from ease_jax import run as run_lib
from ease_jax.config import ConfigError

GATE = 'gate_calm'


def config_of(finished_run, **train):
  text, workdir = finished_run
  c = small_run.make_full_config(text)
  c.loss.gates = ('calm',)
  c.exit.signals = ('max_prob', 'calm')
  c.train.init_from = str(workdir)
  c.train.freeze = 'model'
  c.train.update(train)
  return c


@pytest.fixture(scope='module')
def frozen(finished_run, tmp_path_factory):
  """(config, workdir) of gates that were trained on a finished run."""
  workdir = tmp_path_factory.mktemp('frozen') / 'run'
  c = config_of(finished_run)
  run_lib.run(c, workdir)
  return c, workdir


def params_of(config, workdir):
  return run_lib.load_model(config, workdir).params


def test_only_the_gate_has_changed(finished_run, frozen):
  text, source = finished_run
  before = params_of(small_run.make_full_config(text), source)
  after = params_of(*frozen)
  gate = after.pop(GATE)
  tiny.assert_trees_equal(before, after)
  assert all((np.asarray(x) != 0).all() for x in jax.tree.leaves(gate))


def test_the_newest_of_equally_good_checkpoints_is_used(frozen):
  """A frozen model's select loss says nothing of its gates."""
  results = json.loads((frozen[1] / 'results.json').read_text())
  assert results['train']['best_step'] == frozen[0].train.steps


def test_it_is_swept_and_reported_like_any_signal(frozen):
  results = json.loads((frozen[1] / 'results.json').read_text())
  assert 'calm' in {row['signal'] for row in results['sweep']}
  page = (frozen[1] / 'report.html').read_text()
  assert '<th scope="row">calm</th>' in page


def test_an_interrupted_run_ends_with_the_same_bits(
  frozen, tmp_path, monkeypatch
):
  """R29; the source is read at the start only."""
  c, straight = frozen
  shutil.copytree(straight, tmp_path / 'run')
  (newest,) = (tmp_path / 'run' / 'checkpoints').glob(str(c.train.steps))
  shutil.rmtree(newest)
  monkeypatch.delattr(run_lib, 'initial_params')
  run_lib.run(c, tmp_path / 'run', 'train')
  assert newest.exists()
  tiny.assert_trees_equal(
    params_of(c, straight), params_of(c, tmp_path / 'run')
  )


def test_a_run_may_go_on_learning_from_another_ones_parameters(
  finished_run, tmp_path
):
  c = config_of(finished_run, freeze='nothing')
  run_lib.run(c, tmp_path / 'run', 'train')
  text, source = finished_run
  before = params_of(small_run.make_full_config(text), source)
  after = params_of(c, tmp_path / 'run')
  moved = np.abs(np.asarray(after['embed']) - np.asarray(before['embed']))
  assert 0 < moved.max() < 0.1


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'train.init_from': 'none'}, 'train.init_from=none has no checkpoint'),
    ({'train.init_from': ''}, "train.init_from='' names none"),
    ({'model.dim': 16}, 'has embed='),
    ({'model.num_layers': 3}, 'has layer_2=None'),
    ({'data.tokenizer': 'byte'}, 'tokenizer'),
    ({'loss.gates': (), 'exit.signals': ('max_prob',)}, 'nothing to learn'),
    ({'train.freeze': 'all'}, 'train.freeze'),
  ],
)
def test_what_cannot_be_started_from_is_refused(
  finished_run, tmp_path, changes, words
):
  c = config_of(finished_run)
  c.update_from_flattened_dict(changes)
  with pytest.raises(ConfigError) as caught:
    run_lib.run(c, tmp_path / 'run')
  assert words in str(caught.value) and '\n' not in str(caught.value)
  assert not (tmp_path / 'run').exists()
