"""The directory of a run: whose it is, and its config.

A run's first checkpoint binds its directory. Before that, nothing in it is of
any use to anybody, and a corrected command may start anew there.
"""

import json
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

from ease_jax import fields
from ease_jax.checks import ConfigError, need
from ease_jax.config import Config
from ease_jax.evaluate import results as results_lib
from ease_jax.evaluate.results import Results
from ease_jax.fields import STEPS
from ease_jax.fields import as_json as as_json
from ease_jax.files import draft_of, expanded, write_atomic
from ease_jax.pretrained import Said
from ease_jax.train import saved
from ease_jax.train.writers import METRICS

CONFIG = 'config.json'
ORIGIN = 'origin.json'  # the config.json that an imported model came with
SECTIONS = {'data', 'model', 'train', 'exit'}  # of every config
# What each part of a run writes; a folder ends with a slash.
WRITTEN = {
  'train': (CONFIG, 'tokenizer.json', ORIGIN, METRICS, f'{saved.FOLDER}/'),
  'import': (CONFIG, 'tokenizer.json', ORIGIN, f'{saved.FOLDER}/'),
  'evaluate': (CONFIG, results_lib.FILE, 'windows.json', 'passage.json'),
  'report': ('report.html', 'sweep.csv', 'sweep.md', 'figures/'),
  'export': ('decoder.jax',),
  'texts': ('texts/',),
}
# What would be replaced. `results.json` and checkpoints bind a directory.
FILES = (
  'tokenizer.json',
  ORIGIN,
  METRICS,
  'windows.json',
  'passage.json',
  'report.html',
  'sweep.csv',
  'sweep.md',
)

_SURROGATE = re.compile('[\ud800-\udfff]')  # half a character

Path = str | os.PathLike[str]
Json = dict[str, Any]


def locate(workdir: Path, field: str = '--workdir') -> pathlib.Path:
  """The directory that a flag or field names; `~` is the home. Makes nothing.

  Raises:
    ConfigError: it is no path, empty, a file, or not on a disk of this machine.
  """
  folder = expanded(workdir, field)
  name = os.fspath(workdir)
  need(
    not re.match(r'\w+://', name),
    f'{field}={name} is not on a disk; give a directory (a bucket can be '
    'mounted as one, or copied to afterwards)',
  )
  need(
    not _SURROGATE.search(name),
    f'{field}={name!a} cannot be written in this locale; set PYTHONUTF8=1',
  )
  need(
    folder.is_dir() or not folder.exists(),
    f'{field}={folder} is a file; choose a directory',
  )
  return folder


# ---------------------------------------------------------------- the config


def dumps(tree: Any) -> str:
  """JSON text of a file in the directory; finite numbers only."""
  return json.dumps(tree, indent=2, allow_nan=False) + '\n'


def write_config(config: Config, folder: pathlib.Path) -> None:
  """Writes `config.json`, unless it says that already."""
  text = dumps(as_json(config))
  path = folder / CONFIG
  if not path.exists() or path.read_bytes() != text.encode():
    write_atomic(path, text)


def read_config(folder: pathlib.Path) -> Config:
  """The config of a run, from its directory.

  Raises:
    ConfigError: there is none, it is damaged, or of another version.
  """
  return read_config_file(folder / CONFIG)


def read_config_file(path: pathlib.Path) -> Config:
  """The config in a file that a run wrote.

  Raises:
    ConfigError: it is missing, damaged, or of another version.
  """
  return fields.from_json(_read(path))


def read_origin(folder: pathlib.Path) -> Said | None:
  """What an imported model came with; None of others."""
  path = folder / ORIGIN
  if not path.exists():
    return None
  try:
    return Said(json.loads(path.read_text('utf-8')), path)
  except ValueError as error:
    raise ConfigError(
      f'{path} is damaged ({error}); restore it, or import the model again'
    ) from error


def keep_origin(source: pathlib.Path | None, folder: pathlib.Path) -> None:
  """Lets a run know what the one that it starts from was imported as.

  What an earlier start left there is no longer so.
  """
  if source is not None and (source / ORIGIN).exists():
    write_atomic(folder / ORIGIN, (source / ORIGIN).read_text('utf-8'))
  else:
    (folder / ORIGIN).unlink(missing_ok=True)


def check_context(config: Config, folder: pathlib.Path) -> None:
  """Refuses windows that an imported model was not made for.

  Args:
    config: of the run.
    folder: of that run, or of the one that it starts from.
  """
  origin = read_origin(folder)
  if origin is None:
    return
  most = origin.context
  length = config.data.seq_len
  need(
    most is None or length <= most,
    f'data.seq_len={length} is more than the {most} tokens that the model in '
    f'{folder} was made for; lower it',
  )
  # Runs of older versions had no windows.
  near = origin.model_fields(origin.family).get('block.attention.window', 0)
  here = config.model.block.attention.window
  need(
    here or not near or length <= near,
    f'data.seq_len={length} is more than the {near} tokens that layers of the '
    f'model in {folder} see, and model.block.attention.window={here} lets them '
    'see all; import it again, or lower data.seq_len',
  )


def read_steps(folder: pathlib.Path) -> object:
  """`train.steps` as the directory's config has it."""
  return fields.flat(_read(folder / CONFIG)).get(STEPS)


def is_bound(folder: pathlib.Path) -> bool:
  """Whether there is something that only this config could have made."""
  return saved.has_steps(folder) or (folder / results_lib.FILE).exists()


def check_config(
  config: Config, folder: pathlib.Path, *, may_extend: bool = False
) -> None:
  """Refuses a directory that another config made; writes nothing.

  A field that is new since then may have its default.

  Args:
    config: of the run.
    folder: its directory.
    may_extend: whether a finished run may have more `train.steps` now.

  Raises:
    ConfigError: names every field that differs.
  """
  path = folder / CONFIG
  if not is_bound(folder):
    if path.exists():
      _read(path)  # or it raises
    check_foreign(folder, CONFIG, FILES)
    return
  need(
    path.exists(),
    f'{folder} has checkpoints or results but no config.json, so that nobody '
    'can tell whose they are; choose another --workdir',
  )
  there = fields.flat(_read(path))
  here = fields.flat(as_json(config))
  longer = there.get(STEPS), here[STEPS]
  imported = there.get(STEPS) == 0 and not there.get('train.fit_tokens')
  need(
    not imported or here[STEPS] == 0,
    f'{folder} is an imported model, which {STEPS}={here[STEPS]} would train '
    'in its place; train it in another --workdir, with train.init_from='
    f'{folder}',
  )
  if may_extend and _extends(folder, *longer):
    there[STEPS] = here[STEPS]

  check_context(config, folder)
  free = fields.FREE_OF_IMPORTED if imported else fields.FREE
  differing = fields.differing(there, here, free)
  need(
    not differing,
    f'{folder} was made by another config: {"; ".join(differing)}; choose '
    'another --workdir or the same config'
    + _how_to_extend(folder, differing, *longer),
  )
  newest = saved.newest_step(folder)
  need(
    newest <= here[STEPS],
    f'{folder} has a checkpoint of step {newest}, beyond '
    f'{STEPS}={here[STEPS]}; set {STEPS}={newest}, or restore its {CONFIG}',
  )


def check_foreign(
  folder: pathlib.Path, mark: str, names: tuple[str, ...]
) -> None:
  """Refuses to replace files of somebody else.

  Args:
    folder: a directory.
    mark: the file that lies there if the others are one's own.
    names: of the others.

  Raises:
    ConfigError: one of them lies there without it.
  """
  if (folder / mark).exists():
    return
  for name in names:
    need(
      not (folder / name).exists(),
      f'{folder / name} lies there without a {mark}, so that nobody can tell '
      'whose it is; move it away, or choose another --workdir',
    )


def check_places(folder: pathlib.Path, names: Iterable[str]) -> None:
  """Refuses what lies where files and folders will be written.

  Args:
    folder: a directory, which may be missing.
    names: of what will be written there; a folder ends with a slash.

  Raises:
    ConfigError: a folder lies where a file goes, or the other way round.
  """
  for name in names:
    place = folder / name
    if name.endswith('/'):
      need(
        place.is_dir() or not os.path.lexists(place),
        f'{place} is no folder, where one is written; move it away',
      )
      need(
        not place.exists() or os.access(place, os.W_OK | os.X_OK),
        f'{place} cannot be written to; change its permissions',
      )
      continue
    for path in (place, draft_of(place)):
      need(
        path.is_file() or not os.path.lexists(path),
        f'{path} is no file, where one is written; move it away',
      )


def _extends(folder: pathlib.Path, there: Any, here: int) -> bool:
  """Whether a run did all steps that it was to do, and may do more."""
  return isinstance(there, int) and saved.newest_step(folder) == there < here


def _how_to_extend(
  folder: pathlib.Path, differing: list[str], there: Any, here: int
) -> str:
  if len(differing) != 1 or not differing[0].startswith(STEPS):
    return ''
  if _extends(folder, there, here):
    return ' (--mode=train extends it)'
  return f' (only a finished run can be extended, to more than {there} steps)'


def check_results(
  results: Results, folder: pathlib.Path, config: Config | None = None
) -> None:
  """Refuses results that another config made: they are not what is asked for.

  Args:
    results: of a run.
    folder: its directory.
    config: of the run, as it is asked for; None = as the directory has it.

  Raises:
    ConfigError: names every field that differs.
  """
  made_by = results.provenance.config
  if made_by is None:  # of an older version
    return
  here = _read(folder / CONFIG) if config is None else as_json(config)
  differing = fields.differing(
    fields.flat(made_by), fields.flat(here), fields.SILENT
  )
  need(
    not differing,
    f'{folder / results_lib.FILE} was made by another config: '
    f'{"; ".join(differing)}; run --mode={results_lib.MODE} again',
  )


def _read(path: pathlib.Path) -> Json:
  """The object of a config's file."""
  need(
    path.exists(),
    f'{path} is missing; give the --workdir of a run, or a --config',
  )
  try:
    tree = json.loads(path.read_bytes())
  except ValueError:
    tree = None
  if not isinstance(tree, dict) or not SECTIONS <= tree.keys():
    raise ConfigError(
      f'{path} is not the config of a run; restore it, or choose another '
      '--workdir'
    )
  return tree
