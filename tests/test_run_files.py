"""What the modes of a run read, compare and write."""

import json
import shutil

import jax
import pytest
import small_run
from small_run import refusal, snapshot

from ease_jax import fields
from ease_jax import run as run_lib
from ease_jax import workdir as folders
from ease_jax.config import ConfigError
from ease_jax.notebook import load_run
from ease_jax.train import saved

PROMPT = 'the'


# ----------------------------------------------------------- a failed start


@pytest.mark.parametrize(
  'changes, part',
  [
    ({'data.path': ('none.txt',)}, 'none.txt'),
    ({'data.seq_len': 100_000}, 'data.seq_len'),
    ({'train.batch_size': 0}, 'train.batch_size=0'),
  ],
)
def test_a_failed_start_leaves_nothing(finished_run, tmp_path, changes, part):
  c = small_run.make_full_config(finished_run[0])
  c.data.tokenizer, c.data.vocab_size = 'bpe', 300
  c.update_from_flattened_dict(changes)
  assert part in refusal(c, tmp_path / 'run', 'train')
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('mode', ['evaluate', 'report', 'generate', 'export'])
def test_a_mode_that_needs_a_run_makes_no_folder(finished_run, tmp_path, mode):
  c = small_run.make_full_config(finished_run[0])
  text = refusal(c, tmp_path / 'run', mode, PROMPT)
  assert 'is missing' in text and '--mode=train' in text
  assert not (tmp_path / 'run').exists()


def test_what_a_start_without_a_checkpoint_left_is_not_reused(
  finished_run, tmp_path, monkeypatch
):
  c = small_run.make_full_config(finished_run[0])
  c.data.tokenizer, c.data.vocab_size = 'bpe', 260
  workdir = tmp_path / 'run'

  def die(*unused, **unused_too):
    raise KeyboardInterrupt

  monkeypatch.setattr(run_lib.loop, 'train', die)
  with pytest.raises(KeyboardInterrupt):
    run_lib.run(c, workdir, 'train')
  assert (workdir / 'tokenizer.json').exists()
  c.data.vocab_size = 280
  with pytest.raises(KeyboardInterrupt):
    run_lib.run(c, workdir, 'train')
  saved = json.loads((workdir / 'tokenizer.json').read_text())
  assert len(saved['model']['vocab']) == 280
  assert (
    json.loads((workdir / 'config.json').read_text())['data']['vocab_size']
    == 280
  )


# ------------------------------------------------------------ changed texts


@pytest.mark.parametrize('mode', ['train', 'evaluate', 'all'])
@pytest.mark.parametrize(
  'changed',
  [small_run.TEXT.replace('fox', 'fax', 1), '\u00e9' + small_run.TEXT],
)
def test_another_text_is_refused(copied, tmp_path, mode, changed):
  c, workdir = copied
  text = tmp_path / 'text.txt'
  text.write_text(changed)
  c.data.path = (str(text),)
  tree = json.loads((workdir / 'config.json').read_text())
  tree['data']['path'] = [str(text)]
  (workdir / 'config.json').write_text(json.dumps(tree))
  message = refusal(c, workdir, mode)
  assert (
    f'the data have changed since {workdir} was trained: sha256=' in message
  )
  assert '--text=FILE' in message


def test_another_tokenizer_is_refused(copied):
  c, workdir = copied
  path = workdir / 'tokenizer.json'
  path.write_text(path.read_text().replace('q', 'Q'))
  assert (
    f'{path} is not the one that the run was trained with (vocab_sha256='
  ) in refusal(c, workdir, 'generate', PROMPT)
  assert 'have changed' in refusal(c, workdir, 'evaluate')


# ------------------------------------------------------- nothing is rewritten


@pytest.mark.parametrize(
  'mode, written',
  [
    ('generate', ()),
    ('train', ('metrics.jsonl',)),
    ('report', ('report.html', 'sweep.csv', 'sweep.md', 'figures')),
    ('export', ('decoder.jax',)),
  ],
)
def test_a_mode_writes_what_it_is_for(copied, capsys, mode, written):
  if mode == 'export':
    pytest.importorskip('flatbuffers')
  _, workdir = copied
  before = snapshot(workdir)
  run_lib.run(None, workdir, mode, PROMPT)  # the directory has the config
  after = snapshot(workdir)
  assert before.keys() <= after.keys()
  for path in after:
    assert path.parts[0] in written or after[path] == before[path], path
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == (0 if mode == 'train' else 1)


def test_an_evaluation_keeps_config_results_and_page_together(copied, capsys):
  c, workdir = copied
  c.exit.max_ppl_ratio = 1.5
  run_lib.run(c, workdir, 'evaluate')
  for name in 'config.json', 'results.json':
    tree = json.loads((workdir / name).read_text())
    config = tree.get('provenance', {}).get('config', tree)
    assert config['exit']['max_ppl_ratio'] == 1.5
  assert '1.5' in (workdir / 'report.html').read_text()
  assert capsys.readouterr().out == (
    f'Results: {workdir.resolve()}/results.json\n'
    f'Report: {workdir.resolve()}/report.html\n'
  )


def test_results_of_another_config_are_not_reported(copied):
  _, workdir = copied
  path = workdir / 'config.json'
  tree = json.loads(path.read_text())
  tree['exit']['max_ppl_ratio'] = 1.5
  path.write_text(json.dumps(tree))
  for mode in 'report', 'generate':
    text = refusal(None, workdir, mode, PROMPT)
    assert 'exit.max_ppl_ratio=1.01 there, 1.5 here' in text
    assert '--mode=evaluate again' in text


@pytest.mark.parametrize('mode', ['train', 'generate'])
def test_a_renamed_checkpoint_is_named(copied, mode):
  _, workdir = copied
  step = workdir / 'checkpoints' / '4'
  renamed = step.rename(step.with_name('0004'))
  assert refusal(None, workdir, mode, PROMPT) == (
    f'{renamed} is of no step; call it 4 again'
  )


OTHERS = {  # same shapes, same text
  'seed': 7,
  'model.block.attention.rope_base': 5000.0,
  'optimizer.learning_rate': 0.5,
  'loss.weights': 'uniform',
  'train.eval_every': 4,
  'train.steps': 9,
}


@pytest.mark.parametrize('field', OTHERS)
def test_checkpoints_of_another_run_are_not_ones_own(copied, field):
  """They lie in a directory of whose config they know nothing."""
  c, workdir = copied
  there = fields.flat(folders.as_json(c))[field]
  c.update_from_flattened_dict({field: OTHERS[field]})
  (workdir / 'config.json').write_text(json.dumps(folders.as_json(c)))
  (workdir / 'results.json').unlink()
  if field == 'train.steps':  # as those of a longer run
    there = 4
    step = workdir / 'checkpoints' / '4'
    shutil.rmtree(step)
  for mode in 'train', 'evaluate', 'export':
    c.generate.method = 'full'
    newest = saved.newest_step(workdir)
    assert refusal(c, workdir, mode) == (
      f'checkpoint {workdir}/checkpoints/{newest} was made by another config: '
      f'{field}={there} there, {OTHERS[field]} here; put the checkpoints of '
      'this run back, or choose another --workdir'
    )


def test_checkpoints_do_not_know_how_they_are_used(copied):
  c, workdir = copied
  c.train.update(keep=1, checkpoint_every=3, log_every=2)
  c.evaluate.max_tokens = 32
  c.exit.max_ppl_ratio = 1.5
  (workdir / 'config.json').write_text(json.dumps(folders.as_json(c)))
  (workdir / 'results.json').unlink()
  run_lib.run(c, workdir, 'train')  # or it raises
  assert run_lib.load_model(c, workdir).model.cfg.num_layers == 2


@pytest.mark.parametrize('mode', ['report', 'generate', 'export'])
def test_a_field_that_would_change_the_results_is_not_ignored(copied, mode):
  c, workdir = copied
  c.exit.max_compute = 0.9
  text = refusal(c, workdir, mode, PROMPT)
  assert 'exit.max_compute=0.0 there, 0.9 here' in text
  assert '--mode=evaluate again' in text


def test_a_run_is_extended_and_then_evaluated_again(copied):
  _, workdir = copied
  c = folders.read_config(workdir)
  c.train.steps = 6
  assert '--mode=train extends it' in refusal(c, workdir, 'evaluate')
  run_lib.run(c, workdir, 'train')
  assert 'train.steps=4 there, 6 here' in refusal(None, workdir, 'report')
  run_lib.run(None, workdir, 'evaluate')
  trained = json.loads((workdir / 'results.json').read_text())['train']
  assert (trained['steps'], trained['extended_from']) == (6, [4])


# --------------------------------------------------------------- full disks


@pytest.mark.parametrize('name', ['results.json', 'report.html', 'sweep.csv'])
def test_a_full_disk_loses_nothing(copied, monkeypatch, name):
  _, workdir = copied
  before = snapshot(workdir)
  write = run_lib.pathlib.Path.write_bytes

  def full(path, content):
    if path.name == f'{name}.tmp':
      raise OSError(28, 'No space left on device')
    return write(path, content)

  monkeypatch.setattr(run_lib.pathlib.Path, 'write_bytes', full)
  mode = 'evaluate' if name == 'results.json' else 'report'
  with pytest.raises(OSError) as caught:
    run_lib.run(None, workdir, mode)
  assert str(caught.value).startswith('[Errno 28] No space left on device')
  assert str(caught.value).endswith(f"'{workdir / name}'")
  assert snapshot(workdir) == before


# -------------------------------------------------------------- other texts


def test_another_text_is_evaluated_beside(copied, tmp_path, capsys):
  _, workdir = copied
  text = tmp_path / 'other text.txt'
  text.write_text('the lazy dog jumps over the quick brown f\u00e9x\n' * 5)
  before = snapshot(workdir)
  capsys.readouterr()
  run_lib.run(None, workdir, 'evaluate', text=str(text))
  printed = capsys.readouterr().out.splitlines()
  after = snapshot(workdir)

  (made,) = after.keys() - before.keys()
  assert made.parts[0] == 'texts' and made.name.startswith('other text-')
  assert {path: after[path] for path in before} == before
  found = json.loads(after[made])
  assert found['path'] == str(text)
  assert (found['files'], found['unknown']) == (1, 5)
  assert found['tokens'] == found['characters'] - 1
  assert len(found['readouts']) == 2
  assert found['full']['ppl'] == found['readouts'][-1]['ppl']
  assert printed[-1] == f'Results: {workdir.resolve() / made}'
  assert f'full depth: perplexity {found["full"]["ppl"]:.3f}' in printed[1]


def test_the_run_s_own_text_has_the_run_s_own_numbers(copied, tmp_path):
  c, workdir = copied
  task = run_lib.load_task(run_lib.specs.from_config(c).data, workdir)
  text = tmp_path / 'test.txt'
  text.write_text(task.decode(task.corpus.splits['test']))
  c.evaluate.max_tokens = 64
  run_lib.run(None, workdir, 'evaluate', text=str(text))
  (path,) = (workdir / 'texts').iterdir()
  assert json.loads(path.read_text())['tokens'] == task.splits['test'] - 1


def test_a_text_needs_its_mode(copied):
  _, workdir = copied
  text = refusal(None, workdir, 'report', text='a.txt')
  assert text == '--text=a.txt needs --mode=evaluate'
  assert "--text: 'a.txt' does not exist" in refusal(
    None, workdir, 'evaluate', text='a.txt'
  )
  text = refusal(None, workdir, 'evaluate', text=7)
  assert text == '--text=7 is int, not a path; give a str'
  text = refusal(None, workdir, 'evaluate', text='')
  assert text == '--text is empty; give a path'


# ----------------------------------------------------------- odd directories


def test_a_directory_may_be_called_anything(finished_run, tmp_path, capsys):
  _, workdir = finished_run
  odd = tmp_path / 'L\u00e4ufe $x {0} %s'
  shutil.copytree(workdir, odd)
  run_lib.run(None, odd, 'report')
  assert capsys.readouterr().out == f'Report: {odd.resolve()}/report.html\n'


def test_strict_types_are_not_taken_for_damage(copied):
  _, workdir = copied
  with jax.numpy_dtype_promotion('strict'):
    text = refusal(None, workdir, 'evaluate')
  assert 'jax_numpy_dtype_promotion=strict is set' in text


def test_numbers_of_64_bits_are_refused(copied):
  _, workdir = copied
  with jax.enable_x64(True):
    text = refusal(None, workdir, 'evaluate')
    with pytest.raises(ConfigError, match='unset JAX_ENABLE_X64'):
      load_run(workdir)
  assert text.endswith('unset JAX_ENABLE_X64')


@pytest.mark.parametrize(
  'error, reason',
  [
    (AssertionError(), 'unknown to it'),
    (RuntimeError('no libtpu.so\nat all'), 'no libtpu.so'),
  ],
)
def test_a_missing_device_is_one_line(copied, monkeypatch, error, reason):
  def devices():
    raise error

  monkeypatch.setattr(jax, 'devices', devices)
  text = refusal(None, copied[1], 'report')
  assert text.startswith('JAX finds no device for JAX_PLATFORMS=')
  assert f' ({reason}); unset it' in text
