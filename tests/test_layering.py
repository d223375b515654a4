import ast
import pathlib

import pytest

import ease_jax

ROOT = pathlib.Path(ease_jax.__file__).parent
# From the bottom to the top: a module imports only ones before it.
ORDER = (
    'allocator', 'grid', 'config', 'validation', 'presets', 'costs', 'signals',
    'layers', 'readout', 'halting', 'loss_spec', 'losses', 'models', 'exits',
    'search', 'evaluate', 'optimizer', 'sharding', 'update', 'checkpoint',
    'preemption', 'writers', 'data', 'sweep', 'results', 'decode', 'speed',
    'train', 'report', 'experiment', 'evidence', 'workers', 'comparison',
    'main', 'compare',
)  # pyformat: disable
FILES = sorted(ROOT.rglob('*.py'))
MAX_FILE, MAX_FUNCTION = 350, 80


def name_of(path):
  """data/text.py -> ('data', 'text')."""
  parts = path.relative_to(ROOT).with_suffix('').parts
  return parts[:-1] if parts[-1] == '__init__' else parts


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
  assert name[0] in ORDER, f'give {name[0]} its place in ORDER'
  for imported in imports(path):
    package, *rest = imported.split('.')
    if package != 'ease_jax' or not rest:  # or only asks for the version
      continue
    inside = rest[0] == name[0] and (ROOT / name[0]).is_dir()
    assert inside or ORDER.index(rest[0]) < ORDER.index(name[0]), (
        f'{path.name} imports {imported}')


@every_file
def test_only_checkpoint_knows_orbax(path):
  knows = any(name.split('.')[0] == 'orbax' for name in imports(path))
  assert knows == (path == ROOT / 'checkpoint.py')


@every_file
def test_files_and_functions_stay_short(path):
  assert len(path.read_text().splitlines()) <= MAX_FILE
  for function, length in functions(path):
    assert length <= MAX_FUNCTION, f'{function} has {length} lines'
