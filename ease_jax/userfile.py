"""Python files of a user: what went wrong in one, in a line that says where."""

import pathlib
import re
import sys
import traceback
import types
from collections.abc import Iterator
from typing import TypeGuard

from ease_jax.checks import ConfigError, need
from ease_jax.files import expanded

# With which ml_collections begins an error that holds a whole traceback.
WRAPPER = 'Error whilst parsing config file'


def locate(name: str, flag: str) -> pathlib.Path:
  """The Python file that a flag names.

  Raises:
    ConfigError: it is none.
  """
  path = expanded(name, flag)
  need(
    path.is_file() and path.suffix == '.py',
    f'{flag}={name} is no file NAME.py; give a Python file',
  )
  return path


def explain(error: BaseException, module: str) -> str:
  """`FILE:LINE: what is wrong`, or what is wrong if no file is to blame.

  Args:
    error: as it was caught, whatever wrapped it on the way.
    module: name that the file was imported under.
  """
  chain = list(_causes(error))
  wrapped = [str(cause).startswith(WRAPPER) for cause in chain]
  if any(wrapped):
    chain = chain[1 + wrapped.index(True) :]
  for cause in chain:
    if isinstance(cause, SyntaxError) and str(cause.filename).endswith('.py'):
      return f'{cause.filename}:{cause.lineno}: {cause.msg}'
    for frame, line in reversed(list(traceback.walk_tb(cause.__traceback__))):
      file = frame.f_code.co_filename
      if frame.f_globals.get('__name__') == module and not _is_ours(file):
        return f'{file}:{line}: {_text(cause)}'
    if isinstance(cause, AttributeError) and _is_module(cause.obj, module):
      return f'{cause.obj.__file__}: there is no {cause.name} in it'
    if isinstance(cause, TypeError) and str(cause).startswith('get_config()'):
      file = sys.modules[module].__file__  # it was called with :ARGUMENT
      return f'{file}: {cause}; write "def get_config(argument=\'\')"'
  return _text(chain[0])


def is_to_blame(error: BaseException, module: str) -> bool:
  """Whether the file that was imported under a name raised an error."""
  return any(
    frame.f_globals.get('__name__') == module
    for cause in _causes(error)
    for frame, _ in traceback.walk_tb(cause.__traceback__)
  )


def _is_module(thing: object, name: str) -> TypeGuard[types.ModuleType]:
  return isinstance(thing, types.ModuleType) and thing.__name__ == name


def _is_ours(file: str) -> bool:
  """Whether a file belongs to this package, as one that reads a JSON does."""
  return pathlib.Path(file).parent == pathlib.Path(__file__).parent


def _causes(error: BaseException | None) -> Iterator[BaseException]:
  """An error and what it came from, the first cause last."""
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__


def _text(error: BaseException) -> str:
  """One line, without what ml_collections and absl put around it."""
  text = ' '.join(str(error).split())
  name = type(error).__name__
  frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
  module = frames[-1].f_globals.get('__name__', '') if frames else ''

  if isinstance(error, (AttributeError, KeyError)) and 'config_dict' in module:
    text = text.replace('\\n', '; ').replace('\\', '').replace("'", '')
    text = text.removeprefix('Key ').split(' does not exist')[0]
    return f'unknown field {text}'
  if isinstance(error, OSError):
    return re.sub(r'^.* (?=\[Errno)', '', text)  # a list of attempts
  if isinstance(error, ConfigError) or module.startswith('absl'):
    return text
  return f'{name}: {text}'
