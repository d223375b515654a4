"""The command line and the experiment: one clear line for every mistake."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

import tiny
from ease_jax import config
from ease_jax import run as run_lib
from ease_jax import workdir as workdirs
from ease_jax.config import ConfigError

ROOT = pathlib.Path(__file__).parent.parent
TEXT = 'the quick brown fox jumps over the lazy dog\n' * 100


def main(*args, cwd=ROOT):
  """Runs the command line; returns its exit code and its lines on stderr."""
  done = subprocess.run(
    [sys.executable, '-m', 'ease_jax.main', *args],
    cwd=cwd,
    env=os.environ | {'PYTHONPATH': str(ROOT)},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.stdout == ''
  return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize(
  'args, parts',
  [
    (['--config.model.num_layer=3'], ['num_layer;', '"num_layers"']),
    (['--config.modl.dim=3'], ['modl;', '"model"']),
    (['--config.model.dim=x'], ['config.model.dim=x', 'invalid literal']),
    (['--mode=trian'], ['--mode=trian', 'train']),
    (['--config=none.py'], ["No such file or directory: 'none.py'"]),
    (['--config=configs/quickstart.py:big'], ["'big'", ':smoke']),
    (['--confg=x'], ['confg']),
    (['--workdir='], ['--workdir is empty']),
    (['extra'], ["unexpected argument 'extra'"]),
    (
      ['--config.model.block.attention.num_heads=3'],
      ['model.dim=', 'num_heads=3', 'change one'],
    ),
    (['--mode=generate'], ['--prompt']),
    (['--mode=evaluate'], ['no checkpoint', '--mode=train']),
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
  assert not (workdir / 'config.json').exists() or args == ['--mode=evaluate']


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


# The workdir.


def make_config(tmp_path, **train):
  path = tmp_path / 'text.txt'
  path.write_text(TEXT)
  c = config.base()
  c.data.update(
    source='text',
    path=(str(path),),
    seq_len=8,
    select_fraction=0.2,
    test_fraction=0.2,
  )
  tiny.update_model(
    c.model, num_layers=1, dim=8, num_heads=1, num_kv_heads=1, mlp_dim=8
  )
  c.train.update(
    steps=4, batch_size=2, eval_every=2, checkpoint_every=2, log_every=1
  )
  c.train.update(train)
  c.evaluate.max_tokens, c.evaluate.speed_tokens = 64, 0
  return c


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  folder = tmp_path_factory.mktemp('trained')
  c = make_config(folder)
  run_lib.run(c, folder / 'run', 'train')
  return c, folder / 'run'


def message(*args):
  with pytest.raises(ConfigError) as caught:
    run_lib.run(*args)
  text = str(caught.value)
  assert '\n' not in text
  return text


def snapshot(workdir):
  return {p: p.read_bytes() for p in sorted(workdir.rglob('*')) if p.is_file()}


def test_training_leaves_its_files(trained):
  c, workdir = trained
  saved = json.loads((workdir / 'config.json').read_text())
  assert saved == workdirs.as_json(c)
  assert saved['model']['dim'] == 8
  assert (workdir / 'tokenizer.json').exists()
  assert (workdir / 'metrics.jsonl').exists()


def test_foreign_workdir_is_refused_untouched(trained):
  c, workdir = trained
  other = c.copy_and_resolve_references()
  other.model.dim, other.train.batch_size = 16, 4
  before = snapshot(workdir)
  text = message(other, workdir, 'train')
  assert 'model.dim=8 there, 16 here' in text
  assert 'train.batch_size=2 there, 4 here' in text
  assert 'choose another --workdir' in text
  assert text.count(' there, ') == 2
  assert snapshot(workdir) == before
  assert 'model.dim' in message(other, workdir, 'generate', 'a')


def test_what_does_not_train_may_differ(trained):
  c, workdir = trained
  other = c.copy_and_resolve_references()
  other.evaluate.batch_size = 3
  other.exit.max_ppl_ratio = 1.5
  other.generate.temperature = 1.0
  other.train.log_every = 7
  workdirs.check_config(other, workdir)


def test_workdir_without_config_is_refused(tmp_path):
  (tmp_path / 'run' / 'checkpoints').mkdir(parents=True)
  c = make_config(tmp_path)
  assert 'no config.json' in message(c, tmp_path / 'run', 'train')


def test_broken_config_json(tmp_path):
  (tmp_path / 'config.json').write_text('{')
  assert 'is not JSON' in message(make_config(tmp_path), tmp_path, 'train')


def test_workdir_that_is_a_file(tmp_path):
  c = make_config(tmp_path)
  assert 'is a file' in message(c, tmp_path / 'text.txt', 'train')


def test_missing_data_does_not_bind_the_workdir(tmp_path):
  c = make_config(tmp_path)
  c.data.path = (str(tmp_path / 'none.txt'),)
  assert 'none.txt' in message(c, tmp_path / 'run', 'train')
  assert not (tmp_path / 'run' / 'config.json').exists()


def test_unknown_mode_and_missing_prompt(tmp_path):
  c = make_config(tmp_path)
  assert '--mode=fly is unknown' in message(c, tmp_path, 'fly')
  assert '--prompt' in message(c, tmp_path, 'generate')
  text = message(c, tmp_path / 'run', 'generate', 'a')
  assert 'tokenizer.json is missing' in text


def test_infinite_thresholds_stay_json(tmp_path):
  c = make_config(tmp_path)
  c.exit.thresholds.max_prob = (0.5, float('inf'))
  tree = workdirs.as_json(c)
  assert tree['exit']['thresholds']['max_prob'] == [0.5, 'inf']
  json.dumps(tree, allow_nan=False)


def test_provenance_is_complete():
  made = run_lib.provenance().to_json()
  assert made['command'].startswith('python -m ease_jax.main')
  assert {'python', 'jax', 'ease_jax', 'numpy'} <= set(made['versions'])
  assert 'T' in made['date'] and made['platform']
