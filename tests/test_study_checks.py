"""What is wrong with a study is said before its first run."""

import pathlib

import pytest
from small_run import TEXT, make_config

from ease_jax.checks import ConfigError
from ease_jax.data import task as task_lib
from ease_jax.study import compare as compare_lib
from ease_jax.study import main
from ease_jax.study.compare import compare
from ease_jax.study.study import Study

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'seeds': ()}, 'study.seeds=() names no seed'),
    ({'seeds': (1, 1)}, 'study.seeds=(1, 1) names 1 twice'),
    ({'seeds': 3}, 'study.seeds=3 must look like (1, ...)'),
    ({'seeds': (-1,)}, 'study.seeds=(-1,) holds -1, which must be at least 0'),
    (
      {'pairs': ('a', 'b')},
      "study.pairs=('a', 'b') holds 'a', which must look like ('text', 'text')",
    ),
    ({'variants': {}}, 'study.variants={} must be a dict of names and configs'),
    (
      {'variants': {3: None}},
      'study.variants: name=3 must be a text',
    ),
    (
      {'variants': {'two\nlines': None}},
      "study variant 'two\\nlines' has a character that cannot be printed; "
      'rename it',
    ),
    (
      {'pairs': (('a', 'c'),)},
      "the study names 'c', which is none of its variants: a, b",
    ),
    (
      {'pairs': (('a', 'a'),)},
      "study.pairs holds 'a' against itself; name another baseline",
    ),
    (
      {'starts': (('a', 'c'),)},
      "the study names 'c', which is none of its variants: a, b",
    ),
    (
      {'starts': (('a', 'b'), ('b', 'a'))},
      "study.starts has 'a' start from 'b', which starts from another one "
      'itself; name one that does not',
    ),
    (
      {'starts': (('a', 'b'), ('a', 'a'))},
      'study.starts names a variant twice; each starts from one other',
    ),
    (
      {'frontier': ('d',)},
      "the study names 'd', which is none of its variants: a, b",
    ),
    (
      {'variants': {'a + b': None, 'a, b': None}},
      "variants 'a + b', 'a, b' would run in the folder 'a_b'; rename one",
    ),
    (
      {'variants': {'+': None, 'b': None}},
      "variants '+' would run in the folder ''; rename one",
    ),
  ],
)
def test_mistakes_in_a_study(changes, message):
  fields = {'variants': {'a': None, 'b': None}, 'seeds': (0,), 'pairs': ()}
  with pytest.raises(ConfigError) as error:
    Study('', '', **(fields | changes))
  assert str(error.value) == message


def test_a_mistake_in_a_config_names_its_variant(tmp_path):
  study = Study('', '', {'a': make_config('x', layers=0)}, (0,), ())
  with pytest.raises(ConfigError) as error:
    compare(study, tmp_path)
  assert str(error.value) == (
    "variant 'a': model.num_layers=0 must be at least 1"
  )
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'changes, part',
  [
    ({'data.path': ('none.txt',)}, "data.path: 'none.txt' does not exist"),
    ({'data.seq_len': 10_000}, 'fewer than data.seq_len + 1'),
    ({'data.select_fraction': 1e-4}, 'the select split has 0 tokens'),
  ],
)
def test_texts_are_checked_before_the_first_run(tmp_path, changes, part):
  (tmp_path / 'text.txt').write_text(TEXT)
  c = make_config(tmp_path / 'text.txt')
  bad = c.copy_and_resolve_references()
  bad.update_from_flattened_dict(changes)
  study = Study('', '', {'a': c, 'b': bad}, (0,), ())
  with pytest.raises(ConfigError) as error:
    compare(study, tmp_path / 'out')
  assert str(error.value).startswith("variant 'b': ")
  assert part in str(error.value)
  assert not (tmp_path / 'out').exists()


def test_alike_texts_are_read_once(tmp_path, monkeypatch):
  (tmp_path / 'text.txt').write_text(TEXT)
  read = []

  def load(spec):
    read.append(spec)
    return task_lib.load(spec)

  monkeypatch.setattr(compare_lib, 'load_task', load)
  c = make_config(tmp_path / 'text.txt')
  compare_lib.check_data({'a': c, 'b': c.copy_and_resolve_references()})
  assert len(read) == 1


def test_a_study_needs_a_job(tmp_path):
  study = Study('', '', {'a': make_config('x')}, (0,), ())
  with pytest.raises(ConfigError) as error:
    compare(study, tmp_path, jobs=0)
  assert str(error.value) == '--jobs=0 must be at least 1'


def test_study_files_that_are_none(tmp_path):
  with pytest.raises(ConfigError, match='is no file'):
    main.load('nowhere.py', 'data')
  (tmp_path / 'empty.py').write_text('')
  with pytest.raises(ConfigError, match='no function get_study'):
    main.load(str(tmp_path / 'empty.py'), 'data')


STUDIES = sorted((ROOT / 'configs' / 'studies').glob('*.py'))


@pytest.mark.parametrize('path', STUDIES, ids=lambda p: p.stem)
@pytest.mark.parametrize('argument', ['', ':smoke'])
def test_every_study_is_valid(path, argument):
  study = main.load(f'{path}{argument}', 'folder')
  compare_lib.check_configs(study)  # or it raises
  for c in study.variants.values():
    assert c.train.steps == 0 or (c.train.steps <= 20) == bool(argument)
  if path.stem.endswith('_rates'):
    assert study.seeds == (0,)  # chooses settings, and ranks nothing
  else:
    assert len(study.seeds) >= 3  # a ranking of fewer is none


def test_a_folder_of_texts_that_is_missing_is_named(tmp_path):
  missing = str(tmp_path / 'texts')
  study = main.load(str(ROOT / 'configs' / 'studies' / 'exits.py'), missing)
  with pytest.raises(ConfigError) as error:
    compare(study, tmp_path / 'out', jobs=1)
  line = main.hinted(str(error.value), missing)
  assert line.endswith(
    f"data.path: '{missing}/train.txt' does not exist; correct the path; "
    f'--data={missing} is no folder, give the one with train.txt, valid.txt '
    'and test.txt'
  )
  assert main.hinted('another mistake', missing) == 'another mistake'
  assert main.hinted(str(error.value), str(tmp_path)) == str(error.value)


def test_the_seed_that_chose_settings_is_not_reported():
  study = main.load(str(ROOT / 'configs' / 'studies' / 'quickstart.py'), 'data')
  assert 0 not in study.seeds
