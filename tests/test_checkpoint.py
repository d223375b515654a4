"""Checkpoints: what is damaged is found, reported and survived."""

import logging
import os
import sys
import threading
import types

import pytest
import training

from ease_jax.checks import ConfigError
from ease_jax.train import checkpoint, quiet


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  """The folder of a run that nothing interrupted."""
  workdir = tmp_path_factory.mktemp('straight')
  training.run(training.small_specs(), workdir)
  return workdir


def array_files(folder):
  return [path for path in (folder / 'state').rglob('d/*') if path.is_file()]


def truncate(folder):
  for path in array_files(folder):
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(folder):
  for path in array_files(folder):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_a_note(folder):
  path = folder / 'notes' / 'metadata'
  path.write_text(path.read_text().replace('"bad_evals": ', '"bad_evals": 1'))


def remove_notes(folder):
  (folder / 'notes' / 'metadata').unlink()


@pytest.mark.parametrize(
  'damage', [truncate, flip_a_bit, change_a_note, remove_notes]
)
def test_a_damaged_newest_checkpoint_falls_back(
  straight, tmp_path, capfd, damage
):
  run_specs = training.small_specs()
  training.run(run_specs, tmp_path)
  newest = training.steps_on_disk(tmp_path)[-1]
  damage(tmp_path / 'checkpoints' / str(newest))
  capfd.readouterr()

  training.run(run_specs, tmp_path)
  lines = capfd.readouterr().err.splitlines()
  warnings = [line for line in lines if 'ease_jax: ' in line]
  assert len(warnings) == 1, warnings
  assert warnings[0].startswith('ease_jax: warning: checkpoint')
  assert f'checkpoints/{newest} is unreadable' in warnings[0]
  assert (tmp_path / 'damaged' / str(newest)).is_dir()
  training.assert_same_run(run_specs, straight, tmp_path)


def test_a_step_damaged_twice_is_kept_twice(tmp_path):
  run_specs = training.small_specs()
  for _ in range(2):
    training.run(run_specs, tmp_path)
    truncate(tmp_path / 'checkpoints' / '6')
  training.run(run_specs, tmp_path)
  assert sorted(os.listdir(tmp_path / 'damaged')) == ['6', '6.1']


def test_only_damaged_checkpoints_are_an_error(tmp_path):
  run_specs = training.small_specs()
  training.run(run_specs, tmp_path)
  for step in training.steps_on_disk(tmp_path):
    truncate(tmp_path / 'checkpoints' / str(step))

  with pytest.raises(ConfigError) as in_training:
    training.run(run_specs, tmp_path)
  with pytest.raises(ConfigError) as in_evaluation:
    checkpoint.restore_best(tmp_path, training.abstract_state(run_specs))
  for caught in in_training, in_evaluation:
    message = str(caught.value)
    assert str(tmp_path / 'checkpoints') in message
    assert 'delete it to start again' in message
    assert '\n' not in message


def test_no_checkpoint_is_an_error_for_evaluation(tmp_path):
  with pytest.raises(ConfigError, match='run --mode=train first'):
    checkpoint.restore_best(tmp_path, None)


def test_evaluation_passes_over_a_damaged_best_checkpoint(tmp_path, capfd):
  run_specs = training.small_specs(eval_every=3, keep=9)
  training.run(run_specs, tmp_path)
  abstract = training.abstract_state(run_specs)
  best_step = checkpoint.restore_best(tmp_path, abstract).host.best_step
  truncate(tmp_path / 'checkpoints' / str(best_step))
  capfd.readouterr()

  best = checkpoint.restore_best(tmp_path, abstract)
  assert int(best.state.step) != best_step
  assert f'checkpoints/{best_step} is unreadable' in capfd.readouterr().err
  assert best_step in training.steps_on_disk(tmp_path)


# What failed reads leave behind.


def unraisable(text):
  """What Python hands to the hook for an error that nobody can handle."""
  return types.SimpleNamespace(
    exc_type=RuntimeError,
    exc_value=RuntimeError(text),
    exc_traceback=None,
    err_msg=None,
    object=None,
  )


@pytest.fixture
def heard(monkeypatch):
  """Texts of the errors that reach the process' own hook."""
  texts = []

  def hook(event):
    texts.append(str(event.exc_value))

  monkeypatch.setattr(sys, 'unraisablehook', hook)
  return texts


def test_what_a_failed_read_leaves_behind_is_not_heard(heard, caplog):
  hook = sys.unraisablehook
  log = logging.getLogger('asyncio')
  late = threading.Timer(
    quiet.SILENCE_S / 2,
    lambda: sys.unraisablehook(unraisable('Event loop is closed')),
  )
  with pytest.raises(ValueError, match='damaged'), quiet.abandoned():
    sys.unraisablehook(unraisable('reading array a'))
    sys.unraisablehook(unraisable('something else'))
    log.error('Task exception was never retrieved')
    log.error('something else')
    late.start()
    raise ValueError('damaged')
  late.join()
  assert heard == ['something else']
  assert [record.getMessage() for record in caplog.records] == [
    'something else'
  ]
  assert sys.unraisablehook is hook
  assert log.filters == []


def test_a_good_read_leaves_the_process_as_it_was(heard):
  hook = sys.unraisablehook
  with quiet.abandoned():
    pass
  assert sys.unraisablehook is hook
  sys.unraisablehook(unraisable('Event loop is closed'))
  assert heard == ['Event loop is closed']
