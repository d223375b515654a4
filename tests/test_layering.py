import ast
import graphlib
import pathlib

import pytest

import ease_jax
from ease_jax import model
from ease_jax.core import policies, signals

ROOT = pathlib.Path(ease_jax.__file__).parent
# From the bottom to the top: a module imports only ones before it.
ORDER = (
  'version',
  'checks',
  'files',
  'lock',
  'userfile',
  'core',
  'pretrained',
  'smoke',
  'config',
  'fields',
  'presets',
  'machine',
  'progress',
  'sharding',
  'arrays',
  'processes',
  'model',
  'data',
  'decode',
  'evaluate',
  'train',
  'report',
  'unread',
  'specs',
  'workdir',
  'saved_config',
  'command',
  'provenance',
  'texts',
  'devices',
  'deploy',
  'initial',
  'teacher',
  'run',
  'importing',
  'exporting',
  'import_model',
  'export_model',
  'notebook',
  'harness',
  'lm_eval',
  'study',
  'planning',
  'plan',
  'main',
)
FILES = sorted(ROOT.rglob('*.py'))
MAX_FILE, MAX_FUNCTION = 350, 80


def name_of(path):
  """data/text.py -> ('data', 'text')."""
  parts = path.relative_to(ROOT).with_suffix('').parts
  return parts[:-1] if parts[-1] == '__init__' else parts


def floor(name):
  """Where a dotted name stands in ORDER."""
  assert name[0] in ORDER, f'give {name[0]} its place in ORDER'
  return ORDER.index(name[0])


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


def own_imports(path):
  """Dotted names below the package that a file imports."""
  for imported in imports(path):
    package, *rest = imported.split('.')
    if package == 'ease_jax' and rest and not rest[0].startswith('__'):
      yield rest


@every_file
def test_imports_go_strictly_downwards(path):
  name = name_of(path)
  if not name:
    return  # the public face, which loads modules when they are asked for
  for imported in own_imports(path):
    inside = imported[0] == name[0] and (ROOT / name[0]).is_dir()
    lower = floor(imported) < floor(name)
    assert inside or lower, f'{path.name} imports {".".join(imported)}'


def test_no_folder_runs_in_circles():
  modules = {name_of(path) for path in FILES}
  needs = {}
  for path in FILES:
    name = name_of(path)
    if name and path.name != '__init__.py':
      dotted = [tuple(imported) for imported in own_imports(path)]
      targets = {d[:n] for d in dotted for n in (1, 2)} & modules
      folders = {target for target in targets if len(target) == 1}
      needs[name] = targets - folders - {name}
  # Raises CycleError, which names the circle.
  assert list(graphlib.TopologicalSorter(needs).static_order())


def literals(path):
  """Strings of a file that are not documentation."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
      yield node.value


STRATEGIES = {*signals.SIGNALS, *policies.POLICIES, *model.BODIES}


@every_file
def test_only_core_and_configs_name_a_strategy(path):
  """Everybody else asks an object for its facts."""
  name = name_of(path)
  if name[:1] in ((), ('core',), ('config',), ('presets',)):
    return
  named = STRATEGIES & set(literals(path))
  own = {name[-1]} if name[0] == 'model' else set()
  assert not named - own, f'{path.name} names {named}'


@every_file
def test_only_checkpoint_knows_orbax(path):
  knows = any(name.split('.')[0] == 'orbax' for name in imports(path))
  assert knows == (path == ROOT / 'train' / 'checkpoint.py')


@every_file
def test_files_and_functions_stay_short(path):
  assert len(path.read_text().splitlines()) <= MAX_FILE
  for function, length in functions(path):
    assert length <= MAX_FUNCTION, f'{function} has {length} lines'
