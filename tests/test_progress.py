"""What takes long says so, ever less often."""

import time

import pytest

from ease_jax import progress


def test_a_long_stage_speaks_at_each_doubling(monkeypatch, capsys):
  monkeypatch.setattr(progress, 'FIRST_S', 0.05)
  with progress.stage('thinking'):
    time.sleep(0.3)
  lines = capsys.readouterr().err.splitlines()
  assert lines == ['thinking, 0:00'] * 3  # after 0.05, 0.1 and 0.2 s


def test_a_short_one_is_silent_and_errors_pass(capsys):
  with pytest.raises(KeyError), progress.stage('thinking'):
    raise KeyError
  assert capsys.readouterr() == ('', '')
