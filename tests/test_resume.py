"""Resuming (R29): a killed run ends with the bits of one that never was."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
import training

import tiny
from ease_jax.checks import ConfigError
from ease_jax.train import checkpoint, history, loop


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  """The folder of a run that nothing interrupted."""
  workdir = tmp_path_factory.mktemp('straight')
  training.run(training.small_specs(), workdir)
  return workdir


@pytest.mark.parametrize('num_batches', [2, 4, 5])
def test_a_resumed_run_equals_an_uninterrupted_one(
  straight, tmp_path, num_batches
):
  run_specs = training.small_specs()
  with pytest.raises(KeyboardInterrupt):
    training.run(run_specs, tmp_path, training.dying_task(num_batches))
  assert 0 < training.steps_on_disk(tmp_path)[-1] < 6

  run = training.run(run_specs, tmp_path)
  training.assert_same_run(run_specs, straight, tmp_path)
  assert run.host.tokens == 6 * training.BATCH_SIZE * training.SEQ_LEN


@pytest.mark.parametrize(
  'body, carry_init, gates',
  [('refine', 'random', ()), ('hrm', 'fixed', ('q_halt',))],
)
def test_a_body_of_segments_resumes_too(tmp_path, body, carry_init, gates):
  """First states, exploration of halting and updates per segment."""
  c = training.make_config(accumulate=1, updates='per_segment')
  tiny.update_model(
    c.model, body=body, segments=2, num_layers=1, carry_init=carry_init
  )
  c.loss.weights = 'segment_ends'
  c.loss.token_fraction = 1.0
  c.loss.gates = gates
  if gates:
    c.loss.gate_exploration = 0.5
    c.model.hrm.cycles = 1
  run_specs = training.make_specs(c)
  straight = tmp_path / 'straight'
  training.run(run_specs, straight)

  resumed = tmp_path / 'resumed'
  with pytest.raises(KeyboardInterrupt):
    training.run(run_specs, resumed, training.dying_task(4))
  assert 0 < training.steps_on_disk(resumed)[-1] < 6
  training.run(run_specs, resumed)
  training.assert_same_run(run_specs, straight, resumed)


@pytest.mark.parametrize(
  'changes, model',
  [
    (dict(layer_dropout=0.5), dict(num_layers=2)),
    ({}, dict(num_layers=2, router='mod')),
    ({}, dict(num_layers=2, body='cycle', times=2, own=0, router='mor')),
    (dict(runs='late', runs_share=0.5), dict(body='refine', segments=2)),
    (
      dict(runs='drawn_rows'),
      dict(body='refine', segments=2, inject='decay', carry_init='input'),
    ),
    (
      dict(backprop='growing', backprop_share=1.0),  # 1 1 1, then 2 2 2
      dict(body='refine', segments=3, carry_backprop=3),
    ),
    (
      dict(runs='drawn'),
      dict(body='refine', segments=2, carry_init='random', prelude=1),
    ),
  ],
)
def test_routers_and_runs_resume_too(tmp_path, changes, model):
  """R29, R30: rows drawn to skip layers; tokens that choose; late runs."""
  c = training.make_plain_config(**changes)
  tiny.update_model(c.model, **model)
  run_specs = training.make_specs(c)
  straight = tmp_path / 'straight'
  training.run(run_specs, straight)

  resumed = tmp_path / 'resumed'
  with pytest.raises(KeyboardInterrupt):
    training.run(run_specs, resumed, training.dying_task(4))
  training.run(run_specs, resumed)
  training.assert_same_run(run_specs, straight, resumed)


def test_a_finished_run_trains_nothing(straight):
  before = training.events(straight)
  run = training.run(training.small_specs(), straight, training.dying_task(0))
  assert run.step == 6
  assert training.events(straight) == before


def test_a_sigterm_finishes_the_step_saves_it_and_says_so(straight, tmp_path):
  run_specs = training.small_specs()

  def receive():
    os.kill(os.getpid(), signal.SIGTERM)

  before = signal.getsignal(signal.SIGTERM)
  task = training.interrupted_task(4, receive)
  with pytest.raises(loop.Preempted) as caught:
    training.run(run_specs, tmp_path, task)
  assert str(caught.value) == (
    'stopped by SIGTERM at step 5, which is saved; the same command continues'
  )
  assert signal.getsignal(signal.SIGTERM) == before
  assert training.steps_on_disk(tmp_path)[-1] == 5

  training.run(run_specs, tmp_path)
  training.assert_same_run(run_specs, straight, tmp_path)


def test_a_sigterm_while_the_last_checkpoint_is_written(
  straight, tmp_path, monkeypatch
):
  wait = checkpoint.Checkpoints.wait

  def interrupted_wait(self):
    os.kill(os.getpid(), signal.SIGTERM)
    wait(self)

  monkeypatch.setattr(checkpoint.Checkpoints, 'wait', interrupted_wait)
  run_specs = training.small_specs()
  with pytest.raises(loop.Preempted, match='at step 6, which is saved'):
    training.run(run_specs, tmp_path)
  training.assert_same_run(run_specs, straight, tmp_path)


def test_a_run_says_that_it_was_there_before(straight, capfd):
  training.run(training.small_specs(), straight)
  assert capfd.readouterr().err == 'trained already: 6 of 6 steps\n'


def test_a_finished_run_is_extended(straight, tmp_path, capfd):
  workdir = tmp_path / 'longer'
  shutil.copytree(straight, workdir)
  run_specs = training.small_specs(steps=8)
  with pytest.raises(KeyboardInterrupt):
    training.run(run_specs, workdir, training.dying_task(1))
  said = capfd.readouterr().err.splitlines()
  assert said[0].startswith(
    'extends the run from 6 to 8 steps: the learning rate ended at 10% of its '
    'peak and goes on at 16%'
  )
  assert said[1] == 'continues at step 6 of 8'

  run = training.run(run_specs, workdir)
  assert (run.step, run.host.ends) == (8, [6, 8])
  facts = history.summary(8, run.host, updates_per_step=1, flops_per_token=1.0)
  assert facts['extended_from'] == [6]
  steps = [e['step'] for e in training.events(workdir) if e['split'] == 'train']
  assert steps == [*range(1, 9)]


def test_other_data_are_not_continued_with(straight):
  task = training.make_task()
  corpus = dataclasses.replace(task.corpus, sha256='another')
  before = training.steps_on_disk(straight)
  with pytest.raises(ConfigError) as caught:
    training.run(
      training.small_specs(steps=9),
      straight,
      dataclasses.replace(task, corpus=corpus),
    )
  text = str(caught.value)
  assert f'the data have changed since {straight} was trained' in text
  assert 'sha256= there, another here' in text and '\n' not in text
  assert training.steps_on_disk(straight) == before


# Real processes.

LONG = {
  'steps': 300,
  'eval_every': 20,
  'checkpoint_every': 10,
  'log_every': 7,
}


def start_process(workdir):
  root = str(pathlib.Path(__file__).parent.parent)
  return subprocess.Popen(
    [sys.executable, __file__, str(workdir), json.dumps(LONG)],
    env=os.environ | {'PYTHONPATH': root},
    stderr=subprocess.PIPE,
    text=True,
  )


def wait_for(path, process):
  deadline = time.monotonic() + 60
  while not path.exists():
    assert process.poll() is None, process.stderr.read()
    assert time.monotonic() < deadline
    time.sleep(0.002)


def signal_at(step, number, workdir):
  """Starts a run, sends it a signal at a step; its exit code and words."""
  with start_process(workdir) as process:
    wait_for(workdir / 'checkpoints' / str(step), process)
    process.send_signal(number)
    _, words = process.communicate(timeout=60)
  return process.returncode, words


def test_sigkill_and_sigterm_lose_nothing(tmp_path):
  workdir = tmp_path / 'killed'
  code, words = signal_at(20, signal.SIGKILL, workdir)
  assert code == -signal.SIGKILL, words
  code, words = signal_at(60, signal.SIGTERM, workdir)
  assert code == 143, words
  assert 'stopped by SIGTERM at step' in words.splitlines()[-1]
  assert training.steps_on_disk(workdir)[-1] < 300

  run_specs = training.plain_specs(**LONG)
  training.run(run_specs, workdir)
  training.run(run_specs, tmp_path / 'straight')
  training.assert_same_run(run_specs, workdir, tmp_path / 'straight')


if __name__ == '__main__':  # the process that gets killed
  pathlib.Path(sys.argv[1]).mkdir(exist_ok=True)
  try:
    changes = json.loads(sys.argv[2])
    training.run(training.plain_specs(**changes), sys.argv[1])
  except loop.Preempted as stop:
    print(stop, file=sys.stderr)
    sys.exit(143)
