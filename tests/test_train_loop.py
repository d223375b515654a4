"""The training loop: what happens when, and when it stops."""

import math
import re
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training

from ease_jax import data, progress
from ease_jax.checks import ConfigError
from ease_jax.train import checkpoint, history, loop, stages, tracing
from ease_jax.train.checkpoint import Checkpoints, Host

# The spec.


@pytest.mark.parametrize(
  'changes, problem',
  [
    ({'steps': -1}, 'train.steps=-1 must be at least 0'),
    ({'batch_size': 0}, 'train.batch_size=0 must be at least 1'),
    ({'accumulate': 0}, 'train.accumulate=0 must be at least 1'),
    ({'log_every': 0}, 'train.log_every=0 must be at least 1'),
    ({'eval_every': 0}, 'train.eval_every=0 must be at least 1'),
    ({'checkpoint_every': 0}, 'train.checkpoint_every=0 must be at least 1'),
    ({'keep': 0}, 'train.keep=0 must be at least 1'),
    (
      {'accumulate': 3},
      'train.batch_size=4 is not divisible by train.accumulate=3; change one '
      'of them',
    ),
    (
      {'updates': 'always'},
      "train.updates='always' is unknown; use one of: joint, per_segment",
    ),
    (
      {'updates': 'per_segment'},
      'train.updates=per_segment does not fit train.accumulate=2; use 1',
    ),
  ],
)
def test_a_spec_refuses_what_it_cannot_do(changes, problem):
  with pytest.raises(ConfigError) as caught:
    training.small_specs(**changes)
  assert str(caught.value) == problem


def test_the_segments_of_a_batch_may_be_updates_of_their_own():
  joint = training.small_specs().train
  own = training.small_specs(updates='per_segment', accumulate=1).train
  assert joint.updates_per_step(segments=3) == 1
  assert own.updates_per_step(segments=3) == 3


# The order of events.


class Unread:
  """A metric on the device that notes when somebody waits for it."""

  def __init__(self, value, note):
    self._value = value
    self._note = note

  def __array__(self, *unused_args, **unused_kwargs):
    self._note()
    return np.asarray(self._value)


@pytest.fixture
def journal(monkeypatch):
  """What a run does, in order; its updates change nothing but the step."""
  entries = []

  def note(event):
    entries.append(event)

  def update(state, batch, **unused_specs):
    step = int(state.step) + 1
    note(f'start step {step}')
    metrics = dict.fromkeys(('grad_norm', 'param_norm', 'learning_rate'), 1.0)
    metrics['loss'] = Unread(1.0, lambda: note(f'read step {step}'))
    return state._replace(step=state.step + 1), metrics

  def last_nll(*unused):
    note('evaluate')
    return 1.0 / len(entries)  # always the lowest so far

  save = Checkpoints.save

  def noted_save(self, step, *args):
    note(f'save step {step}')
    save(self, step, *args)

  monkeypatch.setattr(stages, 'train_step', update)
  monkeypatch.setattr(loop.passes, 'last_nll', last_nll)
  monkeypatch.setattr(Checkpoints, 'save', noted_save)
  return entries


def test_metrics_are_read_while_the_next_step_runs_and_before_a_save(
  journal, tmp_path
):
  run_specs = training.plain_specs(steps=5, eval_every=3, checkpoint_every=2)
  training.run(run_specs, tmp_path)
  assert journal == [
    'start step 1',
    'start step 2',
    'read step 1',
    'read step 2',
    'save step 2',
    'start step 3',
    'read step 3',
    'evaluate',
    'save step 3',
    'start step 4',
    'read step 4',
    'save step 4',
    'start step 5',
    'read step 5',
    'evaluate',
    'save step 5',
  ]


# When to stop.


def test_patience_stops_and_the_best_checkpoint_stays(tmp_path, monkeypatch):
  losses = iter([3.0, 2.0, 2.5, 2.0, 2.6, 1.0])

  def last_nll(*unused):
    return next(losses)

  monkeypatch.setattr(loop.passes, 'last_nll', last_nll)
  run_specs = training.plain_specs(
    eval_every=1, checkpoint_every=1, patience=3, keep=1
  )
  run = training.run(run_specs, tmp_path)
  assert run.step == 5
  assert run.host.best_step == 2
  assert training.steps_on_disk(tmp_path) == [2, 5]

  best = checkpoint.restore_best(tmp_path, training.abstract_state(run_specs))
  assert int(best.state.step) == 2
  assert best.newest_step == 5
  assert best.host.wall_s == run.host.wall_s

  stopped = training.run(run_specs, tmp_path, training.dying_task(0))
  assert stopped.step == 5
  # Neither saves the milliseconds behind its last save.
  run.host.seconds = stopped.host.seconds
  assert stopped.host == run.host


def test_training_looks_at_train_and_select_alone(tmp_path):
  """R18: the best checkpoint and the patience know no other split."""
  seen = []

  class Watched(data.LanguageModelling):
    def eval_batches(self, split, *args):
      seen.append(split)
      return super().eval_batches(split, *args)

  task = training.make_task()
  run_specs = training.plain_specs(eval_every=2, patience=1)
  run = training.run(
    run_specs, tmp_path, Watched(corpus=task.corpus, seq_len=task.seq_len)
  )
  assert run.host.best_step > 0
  assert set(seen) == {'select'}


def test_divergence_stops_and_spares_the_last_good_checkpoint(
  tmp_path, monkeypatch
):
  train_step = stages.train_step

  def poisoned(state, *args, **kwargs):
    if int(state.step) == 3:  # so that step 4, before a checkpoint, is NaN
      params = jax.tree.map(lambda x: x * jnp.nan, state.params)
      state = state._replace(params=params)
    return train_step(state, *args, **kwargs)

  monkeypatch.setattr(stages, 'train_step', poisoned)
  run_specs = training.small_specs(eval_every=2, checkpoint_every=2)
  with pytest.raises(loop.TrainingDiverged) as caught:
    training.run(run_specs, tmp_path)
  message = str(caught.value)
  assert message.startswith(
    'training diverged at step 4: loss nan, learning rate 0.0'
  )
  assert 'gradient norm nan' in message
  assert message.endswith('(last good checkpoint: that of step 2)')
  assert '\n' not in message

  assert training.steps_on_disk(tmp_path) == [2]
  assert all(event['step'] < 4 for event in training.events(tmp_path))
  params = training.newest(run_specs, tmp_path).state.params
  assert np.isfinite(params['embed']).all()


def test_too_large_a_learning_rate_diverges(tmp_path):
  c = training.make_plain_config(eval_every=1, checkpoint_every=1)
  c.optimizer.learning_rate = 1e30
  c.optimizer.weight_decay = 0.0
  run_specs = training.make_specs(c)
  with pytest.raises(loop.TrainingDiverged) as caught:
    training.run(run_specs, tmp_path)
  assert 'learning rate 5e+29' in str(caught.value)
  assert '(last good checkpoint: none)' in str(caught.value)
  assert training.steps_on_disk(tmp_path) == []


# What it says.


def test_metrics_are_finite_json(tmp_path):
  training.run(training.small_specs(), tmp_path)
  rows = training.events(tmp_path)
  train = [row for row in rows if row['split'] == 'train']
  select = [row for row in rows if row['split'] == 'select']
  assert [row['step'] for row in train] == [1, 2, 3, 4, 5, 6]
  assert [row['step'] for row in select] == [2, 4, 6]
  for row in rows:
    del row['split']
    assert all(math.isfinite(value) for value in row.values())


def test_a_summary_counts_what_was_spent():
  host = Host(best_loss=2.0, best_step=4, tokens=1000, wall_s=20.0)
  summary = history.summary(6, host, updates_per_step=3, flops_per_token=7.0)
  assert summary == {
    'steps': 6,
    'updates': 18,
    'best_step': 4,
    'tokens': 1000,
    'flops': 7000.0,
    'wall_s': 20.0,
    'tokens_per_s': 50.0,
  }


def test_missing_tensorboard_names_the_extra(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorboardX', None)
  with pytest.raises(ConfigError, match=r'ease_jax\[tensorboard\]'):
    training.run(training.small_specs(tensorboard=True), tmp_path)


def test_tensorboard_events_are_written(tmp_path):
  pytest.importorskip('tensorboardX')
  training.run(training.small_specs(tensorboard=True), tmp_path)
  assert list((tmp_path / 'tensorboard').iterdir())


def test_a_profiler_trace_is_written_and_read(tmp_path, monkeypatch, capfd):
  monkeypatch.setattr(tracing, 'STEPS', range(2, 4))
  training.run(training.plain_specs(profile=True), tmp_path)
  assert list((tmp_path / 'profile').rglob('*.xplane.pb'))
  said = capfd.readouterr().err
  assert f'Trace: {tmp_path}/profile\n' in said
  table = dict(re.findall(r'^  (\w+) +([\d.]+)%$', said, re.M))
  assert {'attention', 'mlp', 'loss', 'optimizer'} <= set(table)
  assert sum(map(float, table.values())) == pytest.approx(100, abs=0.5)


def test_an_operation_is_of_the_innermost_scope():
  backward = 'jit(f)/transpose(jvp(layer_0))/layer_0.attend/mlp/mlp/up/dot'
  assert tracing.scope_of(backward) == 'mlp'
  assert tracing.scope_of('jit(f)/transpose(jvp(attention))/dot') == 'attention'
  assert tracing.scope_of('jit(f)/loss/readout/add') == 'readout'
  assert tracing.scope_of('jit(f)/mlp_norm/add') == tracing.OTHER
  program = """ENTRY %main (x: f32[2]) -> f32[2] {
  %x = f32[2]{0} parameter(0)
  %dot.3 = f32[2]{0} dot(%x, %x), metadata={op_name="jit(f)/mlp/dot"}
  %while.1 = (s32[], f32[2]{0}) while(%t), metadata={op_name="jit(f)/while"}
  ROOT %call = f32[2]{0} call(%dot.3), to_apply=%g
}"""
  assert tracing.names_in(program) == {'x': '', 'dot.3': 'jit(f)/mlp/dot'}


def test_a_run_too_short_for_a_trace_says_so(journal, tmp_path, capfd):
  training.run(training.plain_specs(profile=True), tmp_path)
  assert not (tmp_path / 'profile').exists()
  assert 'no trace: fewer than 11 steps were left' in capfd.readouterr().err


def test_a_trace_is_written_even_if_the_run_ends_first(tmp_path, monkeypatch):
  monkeypatch.setattr(tracing, 'STEPS', range(4, 99))
  training.run(training.small_specs(profile=True), tmp_path)
  assert list((tmp_path / 'profile').rglob('*.xplane.pb'))


def test_the_first_step_says_that_it_is_compiled(tmp_path, monkeypatch, capfd):
  monkeypatch.setattr(progress, 'FIRST_S', 0.1)
  task = training.interrupted_task(0, lambda: time.sleep(0.15))
  training.run(training.plain_specs(steps=2), tmp_path, task)
  said = capfd.readouterr().err.splitlines()
  assert said[0] == 'compiling the first step, 0:00'
