"""Checkpoints: what is damaged is found, reported and survived."""

import contextlib
import json
import logging
import os
import resource
import sys
import threading
import types
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training

import tiny
from ease_jax import importing
from ease_jax.checks import ConfigError
from ease_jax.train import checkpoint, quiet, saved
from ease_jax.train.saved import Host


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


# Small states, saved without a run.


def state_of(size=64, dtype=np.float32):
  rng = np.random.default_rng(0)
  return {
    'w': jnp.asarray(rng.normal(size=(size, size)), dtype),
    'n': jnp.int32(3),
  }


def abstract_of(state):
  return jax.eval_shape(lambda: jax.tree.map(jnp.asarray, state))


def save(folder, step, state):
  with checkpoint.Checkpoints(folder, keep=9) as checkpoints:
    checkpoints.save(step, state, {}, Host(best_step=step))
    checkpoints.wait()


@contextlib.contextmanager
def room(size):
  """No file becomes larger than this, as on a disk that is full."""
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, capfd, caplog):
  state = dict(enumerate(state_of() for _ in range(9)))  # all fail at once
  save(tmp_path, 1, state)
  with pytest.raises(OSError) as caught, room(8000):
    save(tmp_path, 2, state)
  assert str(caught.value) == (
    f'a checkpoint could not be written to {tmp_path}/checkpoints: File too '
    'large; make room there, and the same command continues (last good '
    'checkpoint: that of step 1)'
  )
  said = capfd.readouterr()
  assert (said.out, said.err) == ('', '')
  assert not [r for r in caplog.records if r.levelno >= logging.ERROR]

  assert checkpoint.restore_best(tmp_path, abstract_of(state)).newest_step == 1
  save(tmp_path, 2, state)
  assert checkpoint.restore_best(tmp_path, abstract_of(state)).newest_step == 2


@pytest.mark.parametrize(
  'parts',
  [
    "File too large [os_error_code='27'] [spec='{a: true}']",
    "File too large [spec='{a: true}'] [os_error_code='27']",
  ],
)
def test_what_the_system_said_is_found_in_any_order(parts):
  error = OSError(f'OUT_OF_RANGE: Failed to write "x/d/7": {parts}')
  assert saved.reason(error) == 'File too large'


def test_an_error_of_the_run_is_not_hidden_by_one_of_the_disk(tmp_path):
  with pytest.raises(KeyError), room(8000):
    with checkpoint.Checkpoints(tmp_path, keep=9) as checkpoints:
      checkpoints.save(1, state_of(), {}, Host())
      raise KeyError


def test_a_checkpoint_of_another_device_is_read(tmp_path):
  state = state_of()
  save(tmp_path, 1, state)
  path = tmp_path / 'checkpoints/1/state/_sharding'
  path.write_text(path.read_text().replace('cpu:0', 'cuda:0'))
  best = checkpoint.restore_best(tmp_path, abstract_of(state))
  np.testing.assert_array_equal(best.state['w'], state['w'])


def test_it_is_checked_in_the_types_that_it_was_saved_in(tmp_path):
  state = state_of()
  save(tmp_path, 1, state)
  wanted = abstract_of(state_of(dtype=jnp.bfloat16))
  found = checkpoint.restore_best(tmp_path, wanted).state['w']
  assert found.dtype == jnp.bfloat16
  np.testing.assert_array_equal(found, state['w'].astype(jnp.bfloat16))


def test_one_of_another_model_is_not_called_damaged(tmp_path):
  save(tmp_path, 1, state_of())
  wanted = abstract_of(state_of(32))
  for restore in (
    lambda: checkpoint.restore_best(tmp_path, wanted),
    lambda: checkpoint.Checkpoints(tmp_path, 9).restore(wanted),
  ):
    with pytest.raises(ConfigError) as caught:
      restore()
    assert str(caught.value) == (
      f'checkpoint {tmp_path}/checkpoints/1 is of another model: w is '
      '(64, 64) there, (32, 32) by config and tokenizer; use those that the '
      'run was made with'
    )
  assert not (tmp_path / 'damaged').exists()


def test_data_that_were_not_noted_are_not_vouched_for(tmp_path, capsys):
  saved.check_facts(tmp_path, None, {'sha256': 'a'})
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(
    f'ease_jax: warning: {tmp_path} is of an older version'
  )
  saved.check_facts(tmp_path, {'sha256': 'a'}, {'sha256': 'a', 'new': 1})
  with pytest.raises(ConfigError, match='sha256=a there, b here'):
    saved.check_facts(tmp_path, {'sha256': 'a'}, {'sha256': 'b'})


def as_older_versions(folder, state, mistake=0):
  """Puts CRC-32 of notes and arrays in the place of their digest."""
  path = folder / 'notes' / 'metadata'
  notes = json.loads(path.read_text())
  del notes['digest']
  total = zlib.crc32(json.dumps(notes, sort_keys=True).encode())
  for x in jax.tree.leaves(state):
    total = zlib.crc32(np.asarray(x).tobytes(), total)
  notes['checksum'] = total ^ mistake
  path.write_text(json.dumps(notes))


def test_a_checkpoint_of_an_older_version_is_read_and_checked(tmp_path):
  state = {'a': jnp.arange(3), **state_of()}
  save(tmp_path, 1, state)
  save(tmp_path, 2, state)
  folder = tmp_path / 'checkpoints'
  as_older_versions(folder / '1', state)
  as_older_versions(folder / '2', state, mistake=1)
  best = checkpoint.restore_best(tmp_path, abstract_of(state))
  assert best.newest_step == 1
  tiny.assert_trees_equal(best.state, state)


def test_what_did_not_note_its_config_is_read(tmp_path):
  state = state_of()
  save(tmp_path, 1, state)
  here = {'seed': 0, 'train.steps': 9}
  best = checkpoint.restore_best(tmp_path, abstract_of(state), here)
  assert best.newest_step == 1


def checkpoint_of(step, **config):
  return saved.Restored(step, None, {}, Host(), None, config)


@pytest.mark.parametrize(
  'step, newest, taken',
  [(4, True, True), (2, True, False), (2, False, True)],
)
def test_only_what_was_over_belongs_to_a_longer_run(
  tmp_path, step, newest, taken
):
  there = checkpoint_of(step, **{'train.steps': 4})
  refused = contextlib.nullcontext()
  if not taken:
    refused = pytest.raises(ConfigError, match='train.steps=4 there, 8 here')
  with refused:
    saved.check_config(tmp_path, there, {'train.steps': 8}, newest=newest)
  with pytest.raises(ConfigError, match='train.steps=4 there, 3 here'):
    saved.check_config(tmp_path, there, {'train.steps': 3}, newest=newest)


def test_what_is_written_at_a_time_has_a_limit(tmp_path):
  """The largest array is let through, with room for a rounded gigabyte."""
  state = {'large': jnp.ones(3001), 'small': jnp.ones(5)}
  for at_once, name in ((12_004 + importing.SLACK, 'in'), (12_003, 'out')):
    folder = tmp_path / name
    with contextlib.ExitStack() as stack:
      if name == 'out':
        stack.enter_context(pytest.raises(OSError, match='12004 > 12003'))
      checkpoints = checkpoint.Checkpoints(folder, 1, at_once=at_once)
      with checkpoints:
        checkpoints.save(0, state, data={}, host=Host())
  assert saved.has_steps(tmp_path / 'in')
  assert not saved.has_steps(tmp_path / 'out')


def test_a_file_where_the_folder_should_be(tmp_path):
  (tmp_path / 'checkpoints').touch()
  with pytest.raises(ConfigError, match='checkpoints is a file; move it'):
    checkpoint.Checkpoints(tmp_path, 9)
  with pytest.raises(ConfigError, match='has no checkpoint'):
    checkpoint.restore_best(tmp_path, abstract_of(state_of()))


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
