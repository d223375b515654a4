"""Two processes make the run that one makes.

What needs them is done once for all tests, by `one_of_two`.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest
import training

from ease_jax import arrays, processes, run
from ease_jax.checks import ConfigError
from ease_jax.data import task as tasks
from ease_jax.lock import locked
from ease_jax.train.preemption import Preempted

HERE = pathlib.Path(__file__).parent
STOPPED_BEFORE = 3  # batches
ALONE = ('generate', 'export', 'report')  # modes of one process


def make_config(**mesh):
  """Dropout, so that chance is the same however many processes draw."""
  c = training.make_plain_config(batch_size=4, steps=6, log_every=1)
  c.data.seq_len = training.SEQ_LEN
  c.data.train_chars = 4000
  c.data.select_chars = 500
  c.data.test_chars = 500
  c.model.dropout = 0.1
  c.model.block.attention.num_kv_heads = 2
  c.evaluate.batch_size = 4
  c.evaluate.max_tokens = 64
  c.evaluate.speed_tokens = 0
  c.mesh.update(mesh)
  return c


class Stopped(tasks.LanguageModelling):
  """A task of which one process is told to stop while it reads."""

  def train_batches(self, batch_size, seed):
    def stop():
      os.kill(os.getpid(), signal.SIGTERM)

    batches = super().train_batches(batch_size, seed)
    return training.CountedBatches(batches, STOPPED_BEFORE, stop)


class Greedy(tasks.LanguageModelling):
  """A task that reads all rows of a batch in every process."""

  def train_batches(self, batch_size, seed):
    own_share = arrays.own_share
    arrays.own_share = arrays.Share
    try:
      return super().train_batches(batch_size, seed)
    finally:
      arrays.own_share = own_share


class Forgetful(Greedy):
  """A task that reads as many as it should, everywhere the same ones."""

  def train_batches(self, batch_size, seed):
    def stop():
      raise ConfigError('enough')

    batches = super().train_batches(batch_size // 2, seed)
    return training.CountedBatches(batches, 1, stop)


OWN_TASKS = {'greedy': Greedy, 'forgetful': Forgetful}


def said(c, folder, mode='train', **arguments):
  """What `run` raises."""
  try:
    run.run(c, folder, mode, **arguments)
  except (ConfigError, Preempted) as error:
    return f'{type(error).__name__}: {error}'
  return 'done'


def one_of_two(folder):
  """What each of both processes does; prints what it was told."""
  found = {}
  try:
    processes.connect('env')
  except ConfigError as error:  # they have met all the same
    found['miscounted'] = str(error)
  folder = pathlib.Path(folder)
  c = make_config(data=2)
  found['too_small'] = said(make_config(), folder)
  c.evaluate.speed_tokens = 8
  found['decoding'] = said(c, folder, 'all')
  c.evaluate.speed_tokens = 0
  for mode in ALONE:
    prompt = 'a' if mode == 'generate' else None
    found[mode] = said(c, folder, mode, prompt=prompt)

  if processes.is_first():
    with locked(folder):
      found['in_use'] = said(c, folder)
  else:
    found['in_use'] = said(c, folder)

  whole = tasks.TASKS['language']
  if not processes.is_first():
    tasks.TASKS['language'] = Stopped
  found['stopped'] = said(c, folder)
  found['kept'] = sorted(path.name for path in folder.glob('checkpoints/*'))
  for name, task in OWN_TASKS.items():
    tasks.TASKS['language'] = task
    found[name] = said(c, folder.with_name(name))
  tasks.TASKS['language'] = whole
  processes.meet()
  found['resumed'] = said(c, folder)
  print('\n' + json.dumps(found))


def free_port():
  with socket.socket() as some:
    some.bind(('localhost', 0))
    return some.getsockname()[1]


@pytest.fixture(scope='module')
def both(tmp_path_factory):
  """What each process was told, and the directory of their run."""
  folder = tmp_path_factory.mktemp('two') / 'run'
  code = f'import test_processes; test_processes.one_of_two({str(folder)!r})'
  started = [
    subprocess.Popen(
      [sys.executable, '-c', code],
      cwd=HERE,
      env=os.environ
      | {
        processes.COORDINATOR: f'localhost:{port}',
        # The second one was told another number.
        processes.NUM_PROCESSES: str(2 + index),
        processes.PROCESS_ID: str(index),
        'JAX_PLATFORMS': 'cpu',
        'PYTHONPATH': os.pathsep.join([str(HERE.parent), str(HERE)]),
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for port in [free_port()]
    for index in range(2)
  ]
  ends = [process.communicate(timeout=300) for process in started]
  for process, (_, err) in zip(started, ends, strict=True):
    assert process.returncode == 0, err
  return [json.loads(out.splitlines()[-1]) for out, _ in ends], ends, folder


def events(folder):
  lines = (folder / 'metrics.jsonl').read_text().splitlines()
  found = [json.loads(line) for line in lines]
  return {(e['step'], e['split']): e['loss'] for e in found}, len(found)


def test_two_processes_learn_what_one_does(both, tmp_path):
  """Though one of them was stopped on the way."""
  _, _, folder = both
  run.run(make_config(), tmp_path, 'train')
  alone, num = events(tmp_path)
  together, num_together = events(folder)
  assert num == num_together == len(alone)
  assert together == pytest.approx(alone, abs=1e-5)


def test_sigterm_in_one_stops_and_saves_both(both):
  told, _, _ = both
  assert told[0]['stopped'] == told[1]['stopped']
  # The other one hears of it an update later.
  step = STOPPED_BEFORE + 2
  assert told[0]['stopped'].startswith(
    f'Preempted: stopped by SIGTERM at step {step}, which is saved'
  )
  assert str(step) in told[0]['kept'] and str(step) in told[1]['kept']
  assert [one['resumed'] for one in told] == ['done', 'done']


def test_only_the_first_speaks(both):
  _, ends, _ = both
  assert 'select loss' in ends[0][1]
  assert 'select loss' not in ends[1][1]


def test_what_both_are_refused(both):
  told, _, _ = both
  for one in told:
    assert 'is in use by process' in one['in_use']
    assert 'mesh.tensor=1 has 1 of the 2 devices of 2' in one['too_small']
    assert 'evaluate.speed_tokens=8 is decoded by one' in one['decoding']
    for mode in ALONE:
      assert one[mode] == (
        f'ConfigError: --mode={mode} is done by one process, and there are 2; '
        'leave --multihost out'
      )
    assert one['miscounted'] == (
      'EASE_NUM_PROCESSES=3 of process 1 is not the 2 of the first one; set '
      'the same in all'
    )


def test_a_task_that_reads_rows_of_others(both):
  told, ends, _ = both
  for one in told:
    assert one['greedy'] == (
      'ConfigError: the task reads 4 rows of a batch of 4 in a process that '
      'holds 2; let it ask arrays.own_share'
    )
    assert one['forgetful'] == 'ConfigError: enough'
  # Once: the other tasks read rows of their own.
  assert [err.count('read the same rows') for _, err in ends] == [1, 0]


def test_who_meets_nobody_ends_in_one_line():
  code = (
    'from ease_jax import processes as p\n'
    'try:\n'
    '  p.connect("auto")\n'
    'except p.ConfigError as error:\n'
    '  p.complain(error)\n'
    'p.WAIT_S = 1\n'
    'p.connect("env")\n'
  )
  place = processes.Place(f'localhost:{free_port()}', 2, 0)
  names = dict(zip(processes.VARIABLES, map(str, place), strict=True))
  done = subprocess.run(
    [sys.executable, '-c', code],
    env=os.environ | names | {'PYTHONPATH': str(HERE.parent)},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 1
  auto, env = done.stderr.splitlines()
  assert auto.startswith('ease_jax: --multihost=auto cannot start this process')
  assert auto.endswith('or use --multihost=env with ' + ', '.join(names))
  assert env == (
    'ease_jax: --multihost=env waited 1 s for the others; check that all '
    'processes were started, each with a number of its own, and see the first '
    'one'
  )


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'EASE_PROCESS_ID': ''}, '--multihost=env needs EASE_PROCESS_ID in'),
    ({'EASE_PROCESS_ID': '2'}, 'EASE_PROCESS_ID=2 is not below'),
    ({'EASE_NUM_PROCESSES': 'x'}, 'EASE_NUM_PROCESSES=x is no whole number'),
    ({'EASE_COORDINATOR': 'host'}, 'must look like HOST:PORT'),
  ],
)
def test_a_place_that_is_none_is_refused(changes, message):
  environ = {
    'EASE_COORDINATOR': 'host:1234',
    'EASE_NUM_PROCESSES': '2',
    'EASE_PROCESS_ID': '1',
  }
  assert processes.place(environ) == processes.Place('host:1234', 2, 1)
  with pytest.raises(ConfigError, match=message):
    processes.place(environ | changes)
