"""What lies where a mode will write is found before the work."""

import shutil

import pytest
from small_run import refusal

from ease_jax import run as run_lib
from ease_jax import workdir as folders


@pytest.mark.parametrize(
  'mode, name',
  [
    ('train', 'metrics.jsonl'),
    ('train', 'lock'),
    ('evaluate', 'results.json.tmp'),
    ('evaluate', 'passage.json'),
    ('evaluate', 'sweep.csv'),  # there is a page, which is drawn again
    ('all', 'report.html.tmp'),
    ('report', 'sweep.md.tmp'),
    ('export', 'decoder.jax'),
  ],
)
def test_a_folder_where_a_file_goes_is_found_before_the_work(
  copied, monkeypatch, mode, name
):
  monkeypatch.setattr(run_lib, 'load_task', None)
  _, workdir = copied
  place = workdir / name
  place.unlink(missing_ok=True)
  place.mkdir()
  assert refusal(None, workdir, mode) == (
    f'{place} is no file, where one is written; move it away'
  )


@pytest.mark.parametrize(
  'mode, name, arguments',
  [
    ('train', 'checkpoints', {}),
    ('report', 'figures', {}),
    ('evaluate', 'texts', {'text': 'a.txt'}),
  ],
)
def test_a_file_where_a_folder_goes_is_found_before_the_work(
  copied, mode, name, arguments
):
  _, workdir = copied
  place = workdir / name
  shutil.rmtree(place, ignore_errors=True)
  place.write_text('mine')
  assert refusal(None, workdir, mode, **arguments) == (
    f'{place} is no folder, where one is written; move it away'
  )


def test_a_folder_that_cannot_be_written_to(copied, monkeypatch):
  _, workdir = copied
  monkeypatch.setattr(folders.os, 'access', lambda path, mode: False)
  assert refusal(None, workdir, 'report') == (
    f'{workdir}/figures cannot be written to; change its permissions'
  )
