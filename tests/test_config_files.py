"""The files in configs/: each can run, and says what it costs."""

import pathlib

import pytest

from ease_jax import specs

FOLDER = pathlib.Path(__file__).parent.parent / 'configs'
FILES = sorted(FOLDER.glob('*.py'))


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize('argument', ['', 'smoke'])
def test_every_config_is_valid(path, argument):
  scope = {}
  exec(compile(path.read_text(), path, 'exec'), scope)
  c = scope['get_config'](argument)
  specs.from_config(c)  # or it raises
  assert (c.train.steps <= 20) == (argument == 'smoke')


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_a_header_says_command_cost_and_numbers(path):
  scope = {}
  exec(compile(path.read_text(), path, 'exec'), scope)
  command = f'--config=configs/{path.name}'
  for part in (command, '--workdir=', 'Cost: ', 'perplexity of'):
    assert part in scope['__doc__'], part
