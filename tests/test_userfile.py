"""What is wrong in a Python file of a user is said with its line."""

import json
import sys
import warnings

import pytest
from absl import flags, logging
from absl.testing import flagsaver
from ml_collections import config_flags

from ease_jax import config, saved_config, userfile, workdir
from ease_jax.checks import ConfigError
from ease_jax.study import main as study_main

CONFIG = """from ease_jax import config

def get_config(argument=''):
  c = config.base()
  {line}
  return c
"""
STUDY = """from ease_jax import presets
from ease_jax.study.study import Study

def get_study(data):
  c = presets.small()
  {line}
  return Study('title', 'question', {{'a': c}}, seeds=(0,), pairs=())
"""
MISTAKES = [
  ('c.model.num_layer = 3', 'unknown field "num_layer"'),
  (
    'c.model.num_layer',
    'unknown field num_layer; Did you mean "num_layers" instead of '
    '"num_layer"?',
  ),
  ('nothing', "NameError: name 'nothing' is not defined"),
  (
    'c.train.steps = "x"',
    "TypeError: Could not override field 'steps' (reference). x is of "
    "original type <class 'str'> and cannot be casted to type <class 'int'>",
  ),
  ('1 / 0', 'ZeroDivisionError: division by zero'),
  ('if', 'invalid syntax'),
  ('{}["a"]', "KeyError: 'a'"),
  ('import not_there', "ModuleNotFoundError: No module named 'not_there'"),
  ('open("/not/there")', "[Errno 2] No such file or directory: '/not/there'"),
  (
    'presets.hrm.x',
    "AttributeError: 'function' object has no attribute 'x'",
  ),
]


def problem_of_config(path, *arguments):
  values = flags.FlagValues()
  argv = ['ease_jax', f'--config={path}', *arguments]
  config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', DeprecationWarning)  # how it loads files
    with pytest.raises(Exception) as caught:
      values(argv)
      _ = values['config'].value.seed
  return userfile.explain(caught.value, 'config_config')


@pytest.mark.parametrize('line, problem', MISTAKES[:-1])
def test_a_config_file(line, problem, tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(CONFIG.format(line=line))
  assert problem_of_config(path) == f'{path}:5: {problem}'


@pytest.mark.parametrize('line, problem', MISTAKES)
def test_a_study_file(line, problem, tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(STUDY.format(line=line))
  with pytest.raises(ConfigError) as caught:
    study_main.load(str(path), 'data')
  assert str(caught.value) == f'{path}:6: {problem}'


def test_a_mistake_of_the_package_names_the_line_that_led_there(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(CONFIG.format(line='config.with_section(c, "model")'))
  assert problem_of_config(path) == (
    f'{path}:5: the config has a section model already'
  )
  path.write_text(STUDY.format(line='c = {"": c}; Study("", "", c, (), ())'))
  with pytest.raises(ConfigError) as caught:
    study_main.load(str(path), 'data')
  assert str(caught.value) == f'{path}:6: study.seeds=() names no seed'


@pytest.mark.parametrize(
  'flag, problem',
  [
    (
      'train.step=3',
      'unknown field step; Did you mean "steps" instead of "step"?',
    ),
    (
      'train.steps=x',
      'flag --config.train.steps=x: invalid literal for int() with base 10: '
      "'x'",
    ),
  ],
)
def test_a_flag_is_no_line_of_the_file(flag, problem, tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(CONFIG.format(line='pass'))
  assert problem_of_config(path, f'--config.{flag}') == problem


@pytest.mark.parametrize(
  'content, problem',
  [
    ('', 'mine.py has no function get_study(data)'),
    ('get_study = 3', 'mine.py has no function get_study(data)'),
    (
      'def get_study(data):\n  return None',
      'mine.py: get_study returned a NoneType; return a '
      'ease_jax.study.study.Study',
    ),
    (
      'def get_study():\n  return None',
      'mine.py: TypeError: get_study() takes 0 positional arguments but 1 was '
      'given',
    ),
  ],
)
def test_a_file_without_a_study(content, problem, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'mine.py').write_text(content)
  with pytest.raises(ConfigError) as caught:
    study_main.load('mine.py', 'data')
  assert str(caught.value) == problem


def test_a_config_file_without_the_argument(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text('def get_config():\n  return None\n')
  assert problem_of_config(f'{path}:smoke') == (
    f'{path}: get_config() takes 0 positional arguments but 1 was given; write '
    '"def get_config(argument=\'\')"'
  )


def test_a_study_file_that_exits(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(STUDY.format(line='raise SystemExit(3)'))
  with pytest.raises(ConfigError) as caught:
    study_main.load(str(path), 'data')
  assert str(caught.value) == f'{path}:6: SystemExit: 3'


def test_variants_that_are_no_configs_cannot_be_shrunk(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(STUDY.format(line='c = 3'))
  with pytest.raises(ConfigError) as caught:
    study_main.load(f'{path}:smoke', 'data')
  assert str(caught.value) == (
    f'{path}: a config is expected, not a int; start from '
    'ease_jax.config.base()'
  )


@pytest.mark.parametrize('text', ['a', '1.5', '-1', '', '²', '9' * 5000])
def test_seeds_that_are_no_numbers(text):
  with pytest.raises(ConfigError) as caught:
    study_main.seeds_of(['0', text])
  assert str(caught.value) == (
    f'--seeds has {text[:20]!r}, which is no whole number; give such as 0,1,2'
  )


def test_a_config_file_without_a_config(tmp_path, monkeypatch):
  # ml_collections would load it over the one of another test.
  monkeypatch.delitem(sys.modules, 'config_config', raising=False)
  path = tmp_path / 'mine.py'
  path.write_text('')
  assert problem_of_config(path) == f'{path}: there is no get_config in it'


@pytest.mark.parametrize(
  'section, field, value, problem',
  [
    ('model', 'dim', '32', "damaged at model.dim='32', which should be like"),
    ('optimizer', 'eps', 10**320, 'which should be like'),
    (None, 'model', 'stack', 'damaged at model; restore it from a copy'),
    (None, 'exit', None, 'is not the config of a run; restore it'),
  ],
)
def test_a_damaged_config_json(section, field, value, problem, tmp_path):
  path = tmp_path / 'config.json'
  tree = workdir.as_json(config.base())
  part = tree if section is None else tree[section]
  part[field] = value
  if value is None:
    del part[field]
  path.write_text(json.dumps(tree))
  line = problem_of_config(f'{saved_config.__file__}:{path}')
  assert problem in line and 'Traceback' not in line

  mine = tmp_path / 'mine.py'
  read = (
    f'from ease_jax import saved_config\n  saved_config.get_config("{path}")'
  )
  mine.write_text(CONFIG.format(line=read))
  assert problem_of_config(mine) == f'{mine}:6: {line}'


def test_a_study_does_not_tell_what_jax_looks_for():
  with flagsaver.flagsaver():
    study_main._parse(['study', '--study=a.py', '--workdir=b'])
    assert logging.get_verbosity() == logging.ERROR
