"""What a run says while it trains: metrics and progress."""

import io
import json

import pytest

from ease_jax import progress
from ease_jax.train import writers


class Terminal(io.StringIO):
  def isatty(self):
    return True


def talk(stream, workdir):
  """What one line of metrics and one evaluation make on a stream."""
  metrics = {'loss': 2.0, 'tokens_per_s': 1234.5, 'flops_per_s': 4.2e9}
  evaluation = {'loss': 2.5, 'best_loss': 2.25}
  with writers.Writers(
    workdir, total_steps=10, resume_step=0, tensorboard=False, stream=stream
  ) as written:
    written.write(5, 1.0, 'train', metrics)
    written.write(5, 1.5, 'select', evaluation)
  return stream.getvalue()


def test_a_file_hears_of_evaluations_only(tmp_path):
  assert talk(io.StringIO(), tmp_path) == (
    'step 5/10  select loss 2.5000  best 2.2500\n'
  )


def test_a_file_hears_of_long_training(tmp_path, monkeypatch):
  monkeypatch.setattr(writers, 'QUIET_S', 0.0)
  first, _ = talk(io.StringIO(), tmp_path).splitlines()
  assert first.startswith('step 5/10  loss 2.0000  1,234 tokens/s  ')


def test_a_terminal_sees_progress(tmp_path):
  line = talk(Terminal(), tmp_path)
  assert '\r' in line
  assert 'loss 2.0000  1,234 tokens/s  4.2 GFLOP/s  0:00 left' in line


def test_every_event_is_a_line_of_json(tmp_path):
  talk(io.StringIO(), tmp_path)
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  assert [json.loads(line) for line in lines] == [
    {
      'step': 5,
      'time': 1.0,
      'split': 'train',
      'loss': 2.0,
      'tokens_per_s': 1234.5,
      'flops_per_s': 4.2e9,
    },
    {
      'step': 5,
      'time': 1.5,
      'split': 'select',
      'loss': 2.5,
      'best_loss': 2.25,
    },
  ]


def test_metrics_are_cut_at_the_resumed_step(tmp_path, capsys):
  path = tmp_path / 'metrics.jsonl'
  events = [
    f'{{"step": {step}, "split": "train", "loss": 2.0}}\n' for step in (1, 2, 3)
  ]
  path.write_text(''.join(events) + '{"ste')  # cut off when it was killed
  writers.keep_until(path, 2)
  assert path.read_text() == ''.join(events[:2])
  assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
  'line', [b'\xff\xfe', b'[]', b'{"step": 1}', b'{"step": "1", "loss": 2}', b'']
)
def test_damaged_metrics_are_counted(tmp_path, capsys, line):
  path = tmp_path / 'metrics.jsonl'
  event = b'{"step": 1, "split": "train", "loss": 2.0}'
  path.write_bytes(b'\n'.join([line, line, event, b'']))
  assert writers.read_events(path) == [
    {'step': 1, 'split': 'train', 'loss': 2.0}
  ]
  assert f'{path} has 2 damaged lines' in capsys.readouterr().err


def test_a_full_disk_is_named(tmp_path):
  with writers.Writers(
    tmp_path,
    total_steps=10,
    resume_step=0,
    tensorboard=False,
    stream=io.StringIO(),
  ) as written:
    written._file.close()
    written._file = open('/dev/full', 'a', buffering=1)
    with pytest.raises(OSError) as caught:
      written.write(5, 1.0, 'train', {'loss': 2.0})
  assert str(caught.value) == (
    f"[Errno 28] No space left on device: '{tmp_path / 'metrics.jsonl'}'"
  )


@pytest.mark.parametrize(
  'seconds, text', [(0.4, '0:00'), (90.4, '1:30'), (3700, '1:01:40')]
)
def test_durations_read_like_a_clock(seconds, text):
  assert progress.duration(seconds) == text
