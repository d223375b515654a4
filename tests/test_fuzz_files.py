"""Damage to any file of a run: one line, no traceback, nothing else lost.

FUZZ=1000 pytest tests/test_fuzz_files.py tries more, FUZZ_FROM=111 others.
"""

import os
import random
import shutil

import pytest

from ease_jax import run as run_lib
from ease_jax.config import ConfigError
from ease_jax.train import loop

TRIALS = int(os.environ.get('FUZZ', '10'))
FIRST = int(os.environ.get('FUZZ_FROM', '0'))
# What each mode is there to write.
WRITTEN = {
  'train': ('metrics.jsonl', 'checkpoints', 'damaged'),
  'evaluate': (
    'results.json',
    'windows.json',
    'passage.json',
    'config.json',
  ),
  'report': ('report.html', 'sweep.csv', 'sweep.md', 'figures'),
  'generate': (),
  'export': ('decoder.jax',),
}
CAUGHT = ConfigError, OSError, loop.TrainingDiverged  # by ease_jax.main


def empty(path, rng):
  del rng
  path.write_bytes(b'')


def truncate(path, rng):
  os.truncate(path, rng.randrange(path.stat().st_size + 1))


def scribble(path, rng):
  content = bytearray(path.read_bytes())
  for _ in range(rng.randint(1, 20)):
    if content:
      content[rng.randrange(len(content))] = rng.randrange(256)
  path.write_bytes(content)


def replace(path, rng):
  path.write_bytes(rng.choice([b'{}', b'[]', b'null', b'3', b'\xff\x00']))


def delete(path, rng):
  del rng
  path.unlink()


def fold(path, rng):
  del rng
  path.unlink()
  path.mkdir()


DAMAGES = (empty, truncate, scribble, replace, delete, fold)


def snapshot(folder):
  return {
    path.relative_to(folder): path.read_bytes()
    for path in folder.rglob('*')
    if path.is_file()
  }


def trial(seed, source, workdir, capfd):
  """One damage, one mode; returns what should not have happened."""
  rng = random.Random(seed)
  shutil.copytree(source, workdir)
  (workdir / 'report.html').unlink()  # it takes long to draw
  files = sorted(path for path in workdir.rglob('*') if path.is_file())
  top = [path for path in files if path.parent == workdir]
  victim = rng.choice(rng.choice([files, top]))
  damage = rng.choice(DAMAGES)
  mode = rng.choice(list(WRITTEN))
  damage(victim, rng)

  before = snapshot(workdir)
  capfd.readouterr()
  words = ''
  try:
    run_lib.run(None, workdir, mode, 'the')
  except CAUGHT as error:
    words = str(error)
  said = words + '\n'.join(capfd.readouterr())
  after = snapshot(workdir)

  written = WRITTEN[mode] if not words else WRITTEN['train'][2:]
  lost = [
    path
    for path, content in before.items()
    if after.get(path) != content
    and path.parts[0] not in written
    and workdir / path != victim
    and content not in after.values()  # moved as a whole
  ]
  what = f'{seed}: {damage.__name__} {victim.relative_to(workdir)}, {mode}'
  if 'Traceback' in said or '\n' in words:
    return f'{what}: {said}'
  if lost or (workdir / 'lock').exists():
    return f'{what}: lost {lost}; {said}'
  return ''


def test_damage_is_one_line_and_nothing_else_is_lost(
  finished_run, tmp_path, capfd, monkeypatch
):
  pytest.importorskip('flatbuffers')
  # What it exports is of no interest here.
  monkeypatch.setattr(run_lib.deploy.decode, 'exported', lambda *a, **k: b'')
  _, source = finished_run
  wrong = []
  for seed in range(FIRST, FIRST + TRIALS):
    workdir = tmp_path / str(seed)
    try:
      wrong.append(trial(seed, source, workdir, capfd))
    except Exception as error:  # no line for it
      wrong.append(f'{seed}: {type(error).__name__}: {error}')
    shutil.rmtree(workdir)
  wrong = [words for words in wrong if words]
  assert not wrong, '\n'.join(wrong)
