import ast
import pathlib

import pytest

import ease_jax

ROOT = pathlib.Path(ease_jax.__file__).parent
# From the bottom to the top: a module imports only ones before it.
ORDER = (
  'checks',
  'machine',
  'core.grid',
  'config',
  'validation',
  'presets',
  'core.costs',
  'core.signals',
  'core.weights',
  'model',
  'train.loss',
  'evaluate.passes',
  'evaluate.thresholds',
  'train.optimizer',
  'sharding',
  'train.update',
  'train.checkpoint',
  'train.preemption',
  'train.writers',
  'data',
  'evaluate.sweep',
  'evaluate.results',
  'decode',
  'evaluate.clock',
  'train.loop',
  'report',
  'run',
  'study',
  'main',
)
FILES = sorted(ROOT.rglob('*.py'))
MAX_FILE, MAX_FUNCTION = 350, 80


def name_of(path):
  """data/text.py -> ('data', 'text')."""
  parts = path.relative_to(ROOT).with_suffix('').parts
  return parts[:-1] if parts[-1] == '__init__' else parts


def floor(name):
  """Where a dotted name stands in ORDER, by its folder or its file."""
  places = name[0], '.'.join(name[:2])
  return next(ORDER.index(place) for place in places if place in ORDER)


def imports(path):
  """Every imported module of a file, dotted, wherever it is imported."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path.name}: relative import'
      for alias in node.names:
        yield f'{node.module}.{alias.name}'


def functions(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      yield node.name, node.end_lineno - node.lineno + 1


ids = [str(path.relative_to(ROOT)) for path in FILES]
every_file = pytest.mark.parametrize('path', FILES, ids=ids)


@every_file
def test_imports_go_strictly_downwards(path):
  name = name_of(path)
  if not name:
    assert not [i for i in imports(path) if i.startswith('ease_jax')]
    return
  if path.name == '__init__.py' and name[0] not in ORDER:
    assert not list(imports(path))  # a folder whose modules stand apart
    return
  for imported in imports(path):
    package, *rest = imported.split('.')
    if package != 'ease_jax' or not rest:  # or only asks for the version
      continue
    here, there = floor(name), floor(rest)
    inside = here == there and (ROOT / ORDER[here]).is_dir()
    assert inside or there < here, f'{path.name} imports {imported}'


@every_file
def test_only_checkpoint_knows_orbax(path):
  knows = any(name.split('.')[0] == 'orbax' for name in imports(path))
  assert knows == (path == ROOT / 'train' / 'checkpoint.py')


@every_file
def test_files_and_functions_stay_short(path):
  assert len(path.read_text().splitlines()) <= MAX_FILE
  for function, length in functions(path):
    assert length <= MAX_FUNCTION, f'{function} has {length} lines'
