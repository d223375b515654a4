"""The directory of a run: whose it is, who works in it, and its config."""

import dataclasses
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
import small_run

from ease_jax import config, fields, files, lock
from ease_jax import run as run_lib
from ease_jax import workdir as folders
from ease_jax.config import ConfigError
from ease_jax.data import prepare
from ease_jax.data.files import Account, find
from ease_jax.evaluate.results import Results
from ease_jax.provenance import again, command_line, provenance
from ease_jax.study import main as study_main

ROOT = pathlib.Path(__file__).parent.parent


def bound(folder, c, **changes):
  """A directory that looks like that of a run with a config."""
  (folder / 'checkpoints' / '4').mkdir(parents=True)
  tree = folders.as_json(c) | changes
  (folder / 'config.json').write_text(json.dumps(tree))
  return folder


def refusal(c, folder, **arguments):
  before = snapshot(folder)
  with pytest.raises(ConfigError) as caught:
    folders.check_config(c, folder, **arguments)
  assert snapshot(folder) == before
  text = str(caught.value)
  assert '\n' not in text
  return text


def snapshot(folder):
  return {p: p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


# ------------------------------------------------------------------- whose


def test_another_config_is_refused_field_by_field(tmp_path):
  bound(tmp_path, small_run.make_config('a.txt'))
  other = small_run.make_config('a.txt', batch_size=4)
  other.model.dim = 16
  text = refusal(other, tmp_path)
  assert 'model.dim=8 there, 16 here' in text
  assert 'train.batch_size=2 there, 4 here' in text
  assert text.count(' there, ') == 2


def test_what_does_not_train_may_differ(tmp_path):
  bound(tmp_path, small_run.make_config('a.txt'))
  other = small_run.make_config('a.txt', log_every=7)
  other.evaluate.batch_size = 3
  other.exit.max_ppl_ratio = 1.5
  other.generate.temperature = 1.0
  folders.check_config(other, tmp_path)


def test_a_new_field_may_have_its_default(tmp_path):
  c = small_run.make_config('a.txt')
  bound(tmp_path, c)
  path = tmp_path / 'config.json'
  tree = json.loads(path.read_text())
  del tree['optimizer']['eps']
  path.write_text(json.dumps(tree))
  folders.check_config(c, tmp_path)
  assert folders.read_config(tmp_path).to_dict() == c.to_dict()

  c.optimizer.eps = 1e-6
  assert 'optimizer.eps=1e-08 there, 1e-06 here' in refusal(c, tmp_path)


def test_only_a_finished_run_becomes_longer(tmp_path):
  bound(tmp_path, small_run.make_config('a.txt'))  # all 4 steps are done
  longer = small_run.make_config('a.txt', steps=8)
  folders.check_config(longer, tmp_path, may_extend=True)
  assert '--mode=train extends it' in refusal(longer, tmp_path)
  shorter = small_run.make_config('a.txt', steps=3)
  assert 'more than 4' in refusal(shorter, tmp_path, may_extend=True)
  longer.train.keep = 1
  assert 'train.keep' in refusal(longer, tmp_path, may_extend=True)

  (tmp_path / 'checkpoints' / '4').rename(tmp_path / 'checkpoints' / '2')
  longer.train.keep = 2
  text = refusal(longer, tmp_path, may_extend=True)
  assert 'only a finished run can be extended' in text


def test_nothing_binds_before_a_checkpoint(tmp_path):
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(folders.as_json(small_run.make_config('a.txt'))))
  folders.check_config(small_run.make_config('b.txt'), tmp_path)


@pytest.mark.parametrize(
  'name', ['config.json', 'tokenizer.json', 'report.html', 'sweep.csv']
)
def test_files_of_others_are_not_replaced(tmp_path, name):
  (tmp_path / name).write_text('{"architectures": ["GPT2LMHeadModel"]}')
  assert str(tmp_path / name) in refusal(config.base(), tmp_path)


def test_a_checkpoint_beyond_the_last_step_is_refused(tmp_path):
  c = small_run.make_config('a.txt')  # of 4 steps
  bound(tmp_path, c)
  (tmp_path / 'checkpoints' / '7').mkdir()
  for may_extend in (False, True):
    text = refusal(c, tmp_path, may_extend=may_extend)
    assert 'has a checkpoint of step 7, beyond train.steps=4' in text


def test_checkpoints_without_a_config_are_refused(tmp_path):
  (tmp_path / 'checkpoints' / '4').mkdir(parents=True)
  assert 'no config.json' in refusal(config.base(), tmp_path)


@pytest.mark.parametrize(
  'text', ['', '{', '{}', '[]', '3', '\x00', '{"data": 3}', '{"what": {}}']
)
def test_a_damaged_config_is_one_line(tmp_path, text):
  bound(tmp_path, config.base())
  (tmp_path / 'config.json').write_text(text)
  assert 'config.json is not' in refusal(config.base(), tmp_path)
  with pytest.raises(ConfigError) as caught:
    folders.read_config(tmp_path)
  assert 'config.json' in str(caught.value) and '\n' not in str(caught.value)


def test_a_value_of_another_type_is_named(tmp_path):
  bound(tmp_path, config.base(), seed='zero')
  with pytest.raises(ConfigError, match="damaged at seed='zero'"):
    folders.read_config(tmp_path)


def test_infinite_thresholds_stay_json():
  c = config.base()
  c.exit.thresholds.max_prob = (0.5, float('inf'))
  tree = folders.as_json(c)
  assert tree['exit']['thresholds']['max_prob'] == [0.5, 'inf']
  json.dumps(tree, allow_nan=False)
  again = fields.from_json(tree)
  assert again.exit.thresholds.max_prob == (0.5, float('inf'))


# ------------------------------------------------------------------- where


def test_the_home_is_a_directory(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert folders.locate('~/run') == tmp_path / 'run'


@pytest.mark.parametrize(
  'name, part',
  [
    ('', '--workdir is empty'),
    ('gs://bucket/run', 'is not on a disk'),
    (__file__, 'is a file'),
    ('L\udcc3\udca4ufe', 'set PYTHONUTF8=1'),
    (123, '--workdir=123 is int, not a path'),
    (None, '--workdir=None is NoneType, not a path'),
    (b'run', "--workdir=b'run' is bytes, not a path"),
  ],
)
def test_what_is_no_directory(name, part):
  with pytest.raises(ConfigError, match=part):
    folders.locate(name)


NOBODY = '~no_such_user/x'


@pytest.mark.parametrize(
  'field, read',
  [
    ('--workdir', folders.locate),
    ('--study', functools.partial(study_main.load, data='')),
    ('--out', functools.partial(prepare.prepare, ['x'])),
    (
      '--text',
      functools.partial(run_lib.run, None, 'x', 'evaluate', text=NOBODY),
    ),
    ('data.path', lambda path: find((path,), 'data.path', Account())),
  ],
)
def test_the_home_of_nobody(field, read):
  with pytest.raises(ConfigError) as caught:
    read(*([] if field == '--text' else [NOBODY]))
  assert str(caught.value) == (
    f'{field}={NOBODY}: there is no home of such a user here; write the whole '
    'path, or ./~ for a name that starts with it'
  )


# ---------------------------------------------------------------- the lock


HOLD = """
import pathlib, sys, time
from ease_jax import lock
with lock.locked(pathlib.Path(sys.argv[1])):
  print('locked', flush=True)
  time.sleep(60)
"""


def test_the_second_comer_is_told_who_is_there(tmp_path):
  folder = tmp_path / 'run'
  with subprocess.Popen(
    [sys.executable, '-c', HOLD, str(folder)],
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    stdout=subprocess.PIPE,
  ) as owner:
    assert owner.stdout.readline() == b'locked\n'
    with pytest.raises(ConfigError) as caught, lock.locked(folder):
      pass
    text = str(caught.value)
    assert text.startswith(f'{folder} is in use by process {owner.pid} on ')
    assert ' since 20' in text and '\n' not in text

    # The lock of a process that is gone holds nobody.
    owner.send_signal(signal.SIGKILL)
    owner.wait()
  assert (folder / 'lock').exists()
  with lock.locked(folder):
    pass
  assert not (folder / 'lock').exists()


def test_a_lock_leaves_nothing_behind(tmp_path):
  folder = tmp_path / 'run'
  with pytest.raises(KeyError), lock.locked(folder):
    assert (folder / 'lock').exists()
    raise KeyError
  assert not folder.exists()

  with lock.locked(folder):
    (folder / 'made').touch()
  assert [path.name for path in folder.iterdir()] == ['made']


def test_one_process_has_one_lock(tmp_path):
  with lock.locked(tmp_path):
    with pytest.raises(ConfigError, match=f'process {os.getpid()}'):
      with lock.locked(tmp_path):
        pass
    assert (tmp_path / 'lock').exists()


# --------------------------------------------------------------- its files


def test_files_are_replaced_together_or_not_at_all(tmp_path, monkeypatch):
  old, new = tmp_path / 'old', tmp_path / 'new'
  old.write_text('old')
  write = pathlib.Path.write_bytes

  def full(path, content):
    if path.name.startswith('new'):
      write(path, content[:1])
      raise OSError(28, 'No space left on device')
    return write(path, content)

  monkeypatch.setattr(pathlib.Path, 'write_bytes', full)
  with pytest.raises(OSError) as caught:
    files.write_together({old: 'changed', new: 'new'})
  assert str(caught.value) == (
    f"[Errno 28] No space left on device; what lay there is as it was: '{new}'"
  )
  assert snapshot(tmp_path) == {old: b'old'}


def test_a_config_that_says_the_same_is_not_written(tmp_path):
  c = config.base()
  folders.write_config(c, tmp_path)
  os.utime(tmp_path / 'config.json', (1, 1))
  folders.write_config(c, tmp_path)
  assert (tmp_path / 'config.json').stat().st_mtime == 1


# -------------------------------------------------------------- provenance


def test_provenance_is_complete_and_can_be_run(tmp_path):
  typed = command_line(['--workdir=a b', '--prompt=it$x'])
  assert typed == ("python -m ease_jax.main '--workdir=a b' '--prompt=it$x'")
  made = provenance(typed, config.base()).to_json()
  assert made['command'] == typed
  assert {'python', 'jax', 'ease_jax', 'numpy'} <= set(made['versions'])
  assert 'T' in made['date'] and made['platform']
  assert made['config'] == folders.as_json(config.base())

  assert again(tmp_path / 'a b') == (
    f"python -m ease_jax.main '--config={tmp_path}/a b/config.json' "
    f"'--workdir={tmp_path}/a b_again'  # repeats a run started by Python"
  )


def test_the_page_about_it_has_every_section_of_the_results():
  page = (ROOT / 'docs' / 'runs.md').read_text()
  for field in dataclasses.fields(Results):
    assert f'| `{field.name}` |' in page, field.name
