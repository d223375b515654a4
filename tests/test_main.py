"""The command line: one clear line for every mistake."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from commands import ROOT, main


@pytest.mark.parametrize(
  'args, parts',
  [
    (['--config.model.num_layer=3'], ['num_layer;', '"num_layers"']),
    (['--config.modl.dim=3'], ['modl;', '"model"']),
    (['--config.model.dim=x'], ['config.model.dim=x', 'invalid literal']),
    (['--mode=trian'], ['--mode=trian', 'train']),
    (['--config=none.py'], ['--config=none.py is no file NAME.py']),
    (['--config=configs'], ['--config=configs is no file NAME.py']),
    (['--config.seed=' + '9' * 5000], ['config.seed=' + '9' * 20 + '...: ']),
    (['--config=configs/quickstart.py:big'], ["'big'", ':smoke']),
    (['--confg=x'], ['confg']),
    (['--workdir='], ['--workdir is empty']),
    (['extra'], ["unexpected argument 'extra'"]),
    (
      ['--config.model.block.attention.num_heads=3'],
      ['model.dim=', 'num_heads=3', 'change one'],
    ),
    (['--mode=generate'], ['--prompt']),
    (['--prompt=a'], ['--prompt does nothing with --mode=all']),
    (['--profile', '--mode=report'], ['--profile does nothing', 'report']),
    (['--mode=evaluate'], ['is missing', '--mode=train']),
    (['--mode=report'], ['is missing', '--mode=train']),
  ],
)
def test_mistakes_on_the_command_line(args, parts, tmp_path):
  workdir = tmp_path / 'run'
  code, lines = main(
    '--config=configs/quickstart.py:smoke', f'--workdir={workdir}', *args
  )
  assert code == 1
  assert len(lines) == 1, lines
  assert lines[0].startswith('ease_jax: ')
  assert 'Traceback' not in lines[0]
  for part in parts:
    assert part in lines[0]
  assert not workdir.exists()


def test_a_new_process_says_the_same():
  args = ('--config=configs/quickstart.py', '--mode=trian', '--workdir=x')
  new = subprocess.run(
    [sys.executable, '-m', 'ease_jax.main', *args],
    cwd=ROOT,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert new.stdout == ''
  assert (new.returncode, new.stderr.splitlines()) == main(*args)


def test_mistyped_field_in_a_config_file(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from ease_jax import config\n'
    'def get_config():\n'
    '  c = config.base()\n'
    '  c.model.num_layer = 3\n'
    '  return c\n'
  )
  code, lines = main(f'--config={path}', f'--workdir={tmp_path}')
  assert (code, len(lines)) == (1, 1)
  assert '"num_layer"' in lines[0] and 'Traceback' not in lines[0]


def test_missing_required_flag():
  code, lines = main('--config=configs/quickstart.py')
  assert (code, len(lines)) == (1, 1)
  assert '--workdir' in lines[0]


def test_workdir_alone_is_not_enough_before_there_is_a_run(tmp_path):
  code, lines = main(f'--workdir={tmp_path}', '--mode=evaluate')
  assert (code, len(lines)) == (1, 1)
  assert '--config is missing' in lines[0]
  assert str(tmp_path / 'config.json') in lines[0]


@pytest.mark.parametrize(
  'body, parts',
  [
    ('def get_config():\n  return {}\n', ['returns dict without', 'base()']),
    ('def get_config():\n  pass\n', ['returns NoneType without', 'base()']),
    ('def get_config():\n  return 1 / 0\n', ['division', 'mine.py:2: ']),
    ('import nothing_like_it\n', ['nothing_like_it', 'mine.py:1: ']),
    ('def get_config():\n  int("x")\n', ['invalid literal', 'mine.py:2: ']),
    ('def get_config():\n  exit(3)\n', ['SystemExit: 3', 'mine.py:2: ']),
  ],
)
def test_a_config_file_that_makes_no_config(tmp_path, body, parts):
  path = tmp_path / 'mine.py'
  path.write_text(body)
  code, lines = main(f'--config={path}', f'--workdir={tmp_path / "run"}')
  assert (code, len(lines)) == (1, 1), lines
  for part in parts:
    assert part in lines[0]
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('workdir', ['gs://bucket/run', 's3://bucket/run'])
def test_a_bucket_is_refused_before_anything_is_made(tmp_path, workdir):
  config = str(ROOT / 'configs/quickstart.py:smoke')
  code, lines = main(f'--config={config}', f'--workdir={workdir}', cwd=tmp_path)
  assert (code, len(lines)) == (1, 1), lines
  assert f'--workdir={workdir} is not on a disk' in lines[0]
  assert not list(tmp_path.iterdir())


def test_a_run_s_directory_is_enough(finished_run, tmp_path):
  """Its config is read, flags override it, and any terminal can print it."""
  workdir = tmp_path / 'L\u00e4ufe'
  shutil.copytree(finished_run[1], workdir)
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'ease_jax.main', f'--workdir={workdir}'),
      *('--mode=generate', '--prompt=\u00e9', '--config.generate.method=full'),
      '--config.generate.max_new_tokens=1',
    ],
    env=os.environ | {'PYTHONPATH': str(ROOT), 'PYTHONIOENCODING': 'ascii'},
    capture_output=True,
    timeout=120,
    check=True,
  )
  assert done.stdout.startswith(b'\\xe9') and done.stdout.endswith(b'\n')
  (note,) = done.stderr.decode().splitlines()
  assert note.startswith('[1 tokens, exits after layer 2.00 of 2')
  assert note.endswith('no exits]')


@pytest.fixture
def heard():
  """Ctrl-C reaches processes that are started, wherever the tests were."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('heard')
@pytest.mark.parametrize(
  'number, code, words',
  [
    (signal.SIGTERM, 143, 'stopped by SIGTERM'),
    (signal.SIGINT, 1, 'interrupted'),
  ],
)
def test_what_is_stopped_says_so_and_unlocks(
  finished_run, tmp_path, number, code, words
):
  workdir = tmp_path / 'run'
  shutil.copytree(finished_run[1], workdir)
  before = {path.name: path.stat().st_mtime_ns for path in workdir.iterdir()}
  with subprocess.Popen(
    [
      *(sys.executable, '-m', 'ease_jax.main', f'--workdir={workdir}'),
      '--mode=evaluate',
    ],
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  ) as process:
    deadline = time.monotonic() + 60
    while not (workdir / 'lock').exists():
      assert process.poll() is None and time.monotonic() < deadline
      time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
  assert (process.returncode, out) == (code, '')
  assert err.splitlines()[-1] == (
    f'ease_jax: {words}; the same command goes on from what is saved'
  )
  assert 'Traceback' not in err
  after = {path.name: path.stat().st_mtime_ns for path in workdir.iterdir()}
  assert after == before


def test_a_config_json_is_a_config(tmp_path, finished_run):
  path = finished_run[1] / 'config.json'
  code, lines = main(
    f'--config={path}',
    f'--workdir={tmp_path / "again"}',
    '--config.model.dim=7',
    '--config.model.block.attention.num_heads=2',
  )
  assert (code, len(lines)) == (1, 1)
  assert 'model.dim=7' in lines[0]
  assert not (tmp_path / 'again').exists()
