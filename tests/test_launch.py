"""Launch scripts: what they would run, and with programs that only record."""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = sorted((ROOT / 'launch').glob('*.sh'))
OWN = ('EASE_', 'SLURM_', 'TPU_', 'DEVICES', 'PROCESSES', 'PORT', 'DRY_RUN')
ODD = ('--config=a b.py', "--prompt=it's $HOME; `id`", '--config.x=(1, 2)')
# Writes its arguments and what it was told into the folder $RECORD.
RECORDER = """#!/usr/bin/env bash
name=$(basename "$0").${EASE_PROCESS_ID:-0}
printf '%s\\0' "$@" > "$RECORD/$name.arguments"
env -0 > "$RECORD/$name.environment"
"""


def environment(**changes):
  own = {k: v for k, v in os.environ.items() if not k.startswith(OWN)}
  return own | changes


def run(script, *arguments, **changes):
  return subprocess.run(
    ['bash', str(ROOT / 'launch' / script), *arguments],
    env=environment(**changes),
    capture_output=True,
    text=True,
    check=False,
  )


def commands(script, *arguments, **changes):
  """The words of each command that a dry run prints."""
  found = run(script, *arguments, DRY_RUN='1', **changes)
  assert (found.returncode, found.stderr) == (0, '')
  return [shlex.split(line) for line in found.stdout.splitlines()]


@pytest.fixture
def recorded(tmp_path):
  """Puts recording programs on PATH; returns what they were given."""
  folder = tmp_path / 'bin'
  folder.mkdir()

  class Recorded:
    changes = {
      'PATH': f'{folder}:{os.environ["PATH"]}',
      'RECORD': str(tmp_path),
      'VIRTUAL_ENV': str(tmp_path),
    }

    def program(self, name, more=''):
      (folder / name).write_text(RECORDER + more)
      (folder / name).chmod(0o755)

    def of(self, name, process=0):
      """Arguments and environment."""
      words, told = (
        (tmp_path / f'{name}.{process}.{kind}').read_text().split('\0')[:-1]
        for kind in ('arguments', 'environment')
      )
      return words, dict(line.split('=', 1) for line in told)

  return Recorded()


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_them(script):
  subprocess.run(['bash', '-n', script], check=True)
  head, usage, *_ = script.read_text().splitlines()
  assert head == '#!/usr/bin/env bash' and usage.startswith('# ')
  assert 'set -euo pipefail' in script.read_text()
  assert os.access(script, os.X_OK)


@pytest.mark.skipif(not shutil.which('shellcheck'), reason='no shellcheck')
@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
  subprocess.run(['shellcheck', script], check=True)


def test_one_process_is_told_nothing():
  words = ['env', 'python', '-m', 'ease_jax.main', *ODD]
  assert commands('local.sh', *ODD) == [words]


def test_processes_of_a_machine_meet_and_share_devices():
  told = {'PROCESSES': '2', 'PORT': '29400', 'DEVICES': '0,1,2,3'}
  first, second = commands('local.sh', *ODD, **told)
  program = ['python', '-m', 'ease_jax.main', '--multihost=env', *ODD]
  for number, words, devices in ((0, first, '0,1'), (1, second, '2,3')):
    assert words == [
      'env',
      'EASE_COORDINATOR=127.0.0.1:29400',
      'EASE_NUM_PROCESSES=2',
      f'EASE_PROCESS_ID={number}',
      f'CUDA_VISIBLE_DEVICES={devices}',
      *program,
    ]


@pytest.mark.parametrize(
  'told, message',
  [
    ({'PROCESSES': '0'}, 'PROCESSES=0 is no number of processes'),
    ({'PROCESSES': 'two'}, 'PROCESSES=two is no number of processes'),
    (
      {'PROCESSES': '2', 'DEVICES': '0,1,2'},
      'DEVICES=0,1,2 cannot be shared evenly by PROCESSES=2',
    ),
  ],
)
def test_processes_that_cannot_be_are_refused(told, message):
  found = run('local.sh', **told)
  assert found.returncode == 1 and message in found.stderr
  assert len(found.stderr.splitlines()) == 1


def test_processes_are_started_with_words_as_they_were_given(recorded):
  recorded.program('python')
  found = run('local.sh', *ODD, PROCESSES='2', PORT='29400', **recorded.changes)
  assert (found.returncode, found.stderr) == (0, '')
  for number in (0, 1):
    words, told = recorded.of('python', number)
    assert words == ['-m', 'ease_jax.main', '--multihost=env', *ODD]
    assert told['EASE_PROCESS_ID'] == str(number)


def test_where_one_process_fails_the_others_are_stopped(recorded):
  fails = '((EASE_PROCESS_ID == 1)) && exit 3\nexec sleep 600\n'
  recorded.program('python', fails)
  found = run('local.sh', PROCESSES='2', **recorded.changes)
  assert found.returncode == 3


def test_a_signal_reaches_all_processes(recorded, tmp_path):
  saves = (
    'trap \'touch "$RECORD/saved.$EASE_PROCESS_ID"; exit 143\' TERM\n'
    'touch "$RECORD/ready.$EASE_PROCESS_ID"\n'
    'while true; do sleep 0.05; done\n'
  )
  recorded.program('python', saves)
  process = subprocess.Popen(
    ['bash', str(ROOT / 'launch' / 'local.sh')],
    env=environment(PROCESSES='2', **recorded.changes),
  )
  ready = [tmp_path / f'ready.{number}' for number in (0, 1)]
  while not all(path.exists() for path in ready):
    assert process.poll() is None
    time.sleep(0.02)
  process.send_signal(signal.SIGTERM)
  assert process.wait(timeout=60) == 143
  assert all((tmp_path / f'saved.{number}').exists() for number in (0, 1))


@pytest.mark.parametrize('tasks', [1, 16])
def test_slurm_starts_all_tasks(recorded, tmp_path, tasks):
  recorded.program('srun')
  told = {
    'SLURM_SUBMIT_DIR': str(tmp_path),
    'SLURM_JOB_ID': '7',
    'SLURM_NTASKS': str(tasks),
    'EASE_VENV': '/own/venv',
  }
  multihost = ['--multihost=auto'] if tasks > 1 else []
  words = ['--kill-on-bad-exit=1', 'python', '-m', 'ease_jax.main']
  words += [*multihost, *ODD]
  assert commands('slurm.sh', *ODD, **told) == [['srun', *words]]

  # As sbatch does: a copy of the script, somewhere else.
  copy = shutil.copy(ROOT / 'launch' / 'slurm.sh', tmp_path / 'slurm_script')
  changes = recorded.changes | told
  changes['PATH'] = f'{tmp_path}/bin:{os.environ["PATH"]}'
  subprocess.run(['bash', copy, *ODD], env=environment(**changes), check=True)
  given, seen = recorded.of('srun')
  assert given == words
  assert seen['PATH'].startswith('/own/venv/bin:')


def test_slurm_is_asked_for_what_the_header_says():
  text = (ROOT / 'launch' / 'slurm.sh').read_text()
  options = dict(
    line.removeprefix('#SBATCH --').split('=', 1)
    for line in text.splitlines()
    if line.startswith('#SBATCH')
  )
  assert options['signal'] == 'TERM@120'
  assert options['ntasks-per-node'] == options['gpus-per-node'] == '1'
  found = run('slurm.sh')
  assert found.returncode != 0 and 'submit this with sbatch' in found.stderr


def test_a_tpu_s_hosts_all_get_the_words(recorded):
  told = {'TPU_NAME': 'pod', 'TPU_ZONE': 'here-1', 'TPU_FOLDER': 'my code'}
  (words,) = commands('tpu_vm.sh', *ODD, **told)
  assert words[:6] == ['gcloud', 'compute', 'tpus', 'tpu-vm', 'ssh', 'pod']
  assert words[6:8] == ['--zone=here-1', '--worker=all']
  there = shlex.split(words[8].removeprefix('--command='))
  assert there == [
    *('cd', 'my code', '&&', 'EASE_MULTIHOST=auto', 'launch/tpu_vm.sh'),
    *ODD,
  ]
  recorded.program('gcloud')
  assert run('tpu_vm.sh', *ODD, **told, **recorded.changes).returncode == 0
  assert recorded.of('gcloud')[0] == words[1:]


def test_a_tpu_s_host_installs_and_starts(tmp_path):
  told = {'EASE_VENV': str(tmp_path / 'new'), 'EASE_MULTIHOST': 'auto'}
  *installs, program = commands('tpu_vm.sh', *ODD, **told)
  assert installs[0] == ['python3', '-m', 'venv', told['EASE_VENV']]
  start = ['python', '-m', 'ease_jax.main']
  assert program == [*start, '--multihost=auto', *ODD]
  (tmp_path / 'new').mkdir()
  (tmp_path / 'new' / '.installed').touch()
  del told['EASE_MULTIHOST']
  assert commands('tpu_vm.sh', *ODD, **told) == [[*start, *ODD]]


JOB = {'EASE_NAME': 'it', 'EASE_IMAGE': 'own/image:1', 'EASE_CLAIM': 'runs'}


def test_pods_of_a_jobset_know_each_other():
  found = run('kubernetes.sh', *ODD, DRY_RUN='1', EASE_PODS='4', **JOB)
  assert (found.returncode, found.stderr) == (0, '')
  jobset = yaml.safe_load(found.stdout)
  assert jobset['kind'] == 'JobSet' and jobset['metadata'] == {'name': 'it'}
  assert jobset['spec']['network'] == {'enableDNSHostnames': True}
  (job,) = jobset['spec']['replicatedJobs']
  spec = job['template']['spec']
  assert (job['name'], job['replicas']) == ('train', 1)
  assert spec['parallelism'] == spec['completions'] == 4
  assert spec['completionMode'] == 'Indexed'

  (container,) = spec['template']['spec']['containers']
  assert container['image'] == 'own/image:1'
  assert container['args'] == ['--multihost=env', *ODD]
  told = {entry.pop('name'): entry for entry in container['env']}
  assert told['EASE_COORDINATOR']['value'] == 'it-train-0-0.it:29400'
  assert told['EASE_NUM_PROCESSES']['value'] == '4'
  field = told['EASE_PROCESS_ID']['valueFrom']['fieldRef']['fieldPath']
  index = 'batch.kubernetes.io/job-completion-index'
  assert field == f"metadata.annotations['{index}']"
  assert container['resources']['limits'] == {'nvidia.com/gpu': 1}


def test_a_jobset_is_sent_as_it_was_printed(recorded):
  recorded.program('kubectl', 'cat > "$RECORD/sent"\n')
  printed = run('kubernetes.sh', *ODD, DRY_RUN='1', **JOB)
  found = run('kubernetes.sh', *ODD, **JOB, **recorded.changes)
  assert found.returncode == 0
  assert recorded.of('kubectl')[0] == ['apply', '-f', '-']
  sent = pathlib.Path(recorded.changes['RECORD'], 'sent').read_text()
  assert sent == printed.stdout
  (job,) = yaml.safe_load(sent)['spec']['replicatedJobs']
  (container,) = job['template']['spec']['template']['spec']['containers']
  assert container['args'] == list(ODD)  # one pod, nobody to meet


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'EASE_IMAGE': ''}, 'EASE_IMAGE is not set'),
    ({'EASE_PODS': '0'}, 'EASE_PODS=0 is no number'),
    ({'EASE_NAME': 'A b'}, 'EASE_NAME=A b must be lower-case'),
  ],
)
def test_a_jobset_without_what_it_needs_is_refused(changes, message):
  found = run('kubernetes.sh', **(JOB | changes))
  assert found.returncode == 1 and message in found.stderr
  assert len(found.stderr.splitlines()) == 1
