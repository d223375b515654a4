"""Any value in any field: it is taken, or refused in one line with its name."""

import functools
import random
import warnings

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from ease_jax import config, specs, userfile
from ease_jax.config import ConfigError

INFINITE = float('inf')
ODD = (
  *(None, True, False, -1, 0, 1, 2, 3, 1000, 2**31, 2**32, 2**63, 10**30),
  *(-1.0, -0.0, 0.3, 1.0, 1.5, 1e-300, 1e300, INFINITE, -INFINITE),
  float('nan'),
  *('', ' ', 'x', 'muon', 'text', 'train', '\n', '\0', '\u202e', '%s{}'),
  *((), (0,), (1,), (-1, 8), (8, 8), (0.5,), (float('nan'),), (None,)),
  *(('',), ('x',), ('max_prob',), ('max_prob', 'max_prob'), ('q_halt',)),
  *(('latest',), ('x', 1), (1, 0.5), ((1, 0.5),), ((1, 0.5), (1, 0.5))),
  *(((8, -1.0),), ((8, 0.0),), ((0.0,) * 8,), ((0.0,) * 7 + (1.0,),)),
  *((0, 1, 0.5), (0, 0, 0.5), (99, 1, 0.5), (0, 4, float('nan'))),
  *([1, [2, 3]], {'a': 1}, {}, object, b'x', 1j),
)
# What a person may write behind a field on the command line.
TEXTS = tuple(map(str, ODD)) + (
  *('(', '()', '(1,', '1,2', '[1]', '{}', "'", '"', '\\', '-', 'true', '1e3'),
  *('None', 'a b', '0x10', '١', 'texts/*', '~', '=', '#', '\t'),
)
# Each field gets so many of them; more is more of the same.
PER_FIELD = 12


def fields_of(section, prefix=''):
  """The dotted names of all fields, those to come among them."""
  for name, value in section.items():
    if isinstance(value, ConfigDict):
      yield from fields_of(value, f'{prefix}{name}.')
    else:
      yield prefix + name


FIELDS = tuple(fields_of(config.base()))
SECTIONS = ('data', 'model', 'model.block', 'exit.thresholds', 'generate')
# Where other fields of the section are read.
BODIES = (
  {},
  {'model.body': 'refine', 'model.segments': 2, 'loss.weights': 'uniform'},
  {
    'data.source': 'text',
    'data.path': ('x',),
    'data.tokenizer': 'bpe',
    'model.router': 'mod',
    'optimizer.name': 'muon',
    'loss.weights': 'chosen',
    'loss.chosen': ((2, 0.5), (8, 0.5)),
    'loss.schedule': 'rotate',
    'loss.normalize': 'none',
    'loss.exit_threshold': 0.5,
    'loss.target': 'distill',
    'generate.temperature': 1.0,
  },
)


def set_field(c, field, value):
  """Whatever its type: specs must not count on the config to look at it."""
  *parents, name = field.split('.')
  section = c
  for parent in parents:
    section = section[parent]
  with section.ignore_type(), section.unlocked():
    section[name] = value


def check(c, field):
  """Takes a config, or refuses it in a line that names the field."""
  try:
    specs.from_config(c)
  except ConfigError as error:
    line = str(error)
    assert line.isprintable(), ascii(line)
    assert field in line or field.rpartition('.')[0] + '.' in line, line
    return False
  return True


@functools.cache
def base(number):
  c = config.base()
  c.update_from_flattened_dict(BODIES[number])
  return c


@pytest.mark.parametrize('number', range(len(BODIES)))
def test_any_value_in_any_field(number):
  rng = random.Random(number)
  taken = 0
  for field in FIELDS:
    for value in rng.sample(ODD, PER_FIELD // len(BODIES)):
      c = base(number).copy_and_resolve_references()
      set_field(c, field, value)
      taken += check(c, field)
  assert taken > 10, 'nearly everything was refused: of what use is this?'


@pytest.mark.parametrize('field', SECTIONS)
def test_a_section_that_is_none(field):
  for value in (None, 1, 'x', (), {}):
    c = base(0).copy_and_resolve_references()
    set_field(c, field, value)
    assert not check(c, field)


def parsed(path, *arguments):
  """The config of a command line, as `ease_jax.main` reads it."""
  values = flags.FlagValues()
  argv = ['ease_jax', f'--config={path}', *arguments]
  holder = config_flags.DEFINE_config_file(
    'config', flag_values=values, sys_argv=argv
  )
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', DeprecationWarning)  # how it loads files
    values(argv)
  return holder.value


def test_any_text_on_the_command_line(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text('from ease_jax.config import base as get_config\n')
  rng = random.Random(9)
  for field in FIELDS:
    for text in rng.sample(TEXTS, 2):
      try:
        c = parsed(path, f'--config.{field}={text}')
      except Exception as error:
        line = userfile.explain(error, 'config_config')
        assert field in line and '\n' not in line, ascii(line)
      else:
        check(c, field)
