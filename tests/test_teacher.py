"""A trained run teaches another one (`loss.teacher`)."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import small_run
import training

import tiny
from ease_jax import run, specs, teacher
from ease_jax.checks import ConfigError
from ease_jax.evaluate.facts import TeacherFacts
from ease_jax.study import equal
from ease_jax.train import targets
from ease_jax.train.paths import leaves

# ------------------------------------------------------- in the training loop

BIG = tiny.body(num_layers=1, dim=16)
FACTS = TeacherFacts(run='runs/big', checksum='0123abcd', flops=1000.0)
TEACHER = targets.Teacher(BIG, tiny.params(BIG), FACTS)


def taught_specs(own, **changes):
  c = training.make_config(**changes)
  c.loss.target = 'distill'
  c.loss.teacher_temperature = 2.0
  if own:
    tiny.update_model(c.model, body='refine', segments=2)
    c.loss.schedule = 'constant'
  else:
    c.loss.teacher = FACTS.run
    c.loss.teacher_top_k = 4
    c.model.dtype = 'bfloat16'  # the teacher is float32
  return training.make_specs(c)


@pytest.fixture(scope='module')
def taught(tmp_path_factory):
  """The folder of a run that another one teaches, in micro-batches."""
  workdir = tmp_path_factory.mktemp('taught')
  training.run(taught_specs(own=False), workdir, teacher=TEACHER)
  return workdir


def test_a_taught_run_resumes_with_the_same_bits(taught, tmp_path):
  """R29, with dropout, a schedule, a share of the tokens, bfloat16."""
  before = jax.tree.map(np.array, TEACHER.params)
  run_specs = taught_specs(own=False)
  with pytest.raises(KeyboardInterrupt):
    task = training.dying_task(4)
    training.run(run_specs, tmp_path, task, teacher=TEACHER)
  assert 0 < training.steps_on_disk(tmp_path)[-1] < 6
  training.run(run_specs, tmp_path, teacher=TEACHER)
  training.assert_same_run(run_specs, taught, tmp_path)
  tiny.assert_trees_equal(before, TEACHER.params)


def test_segments_that_teach_themselves_resume_too(tmp_path):
  run_specs = taught_specs(
    own=True, accumulate=1, updates='per_segment', steps=4
  )
  straight, resumed = tmp_path / 'straight', tmp_path / 'resumed'
  training.run(run_specs, straight)
  with pytest.raises(KeyboardInterrupt):
    training.run(run_specs, resumed, training.dying_task(3))
  training.run(run_specs, resumed)
  training.assert_same_run(run_specs, straight, resumed)


def test_the_teacher_is_in_no_checkpoint(taught):
  run_specs = taught_specs(own=False)
  found = training.newest(run_specs, taught)
  names = leaves(found.state)
  assert names.keys() == leaves(training.abstract_state(run_specs)).keys()
  assert found.host.teacher == FACTS.to_json()


def test_another_teacher_is_not_continued_with(taught):
  before = training.steps_on_disk(taught)
  facts = dataclasses.replace(FACTS, checksum='ffffffff')
  other = dataclasses.replace(TEACHER, facts=facts)
  with pytest.raises(ConfigError) as error:
    run_specs = taught_specs(own=False, steps=9)
    training.run(run_specs, taught, teacher=other)
  assert str(error.value) == (
    f'the teacher has changed since {taught} was trained: parameters '
    '0123abcd there, ffffffff here; bring them back, or choose another '
    '--workdir'
  )
  assert training.steps_on_disk(taught) == before


# ------------------------------------------------------------- from run to run


def student_config(text, folder):
  c = small_run.make_config(text, layers=2)
  c.data.tokenizer = 'char'
  c.evaluate.speed_tokens = 0
  c.loss.weights = 'uniform'
  c.loss.target = 'distill'
  c.loss.teacher = str(folder)
  return c


@pytest.fixture(scope='module')
def student(finished_run, tmp_path_factory):
  """Config and folder of a run that the finished one taught."""
  text, folder = finished_run
  workdir = tmp_path_factory.mktemp('student') / 'run'
  c = student_config(text, folder)
  run.run(c, workdir)
  return c, workdir


def test_results_name_the_teacher_and_count_what_it_took(student, finished_run):
  c, workdir = student
  results = json.loads((workdir / 'results.json').read_text())
  taught_by = results['train']['teacher']
  assert taught_by['run'] == str(finished_run[1])
  assert len(taught_by['checksum']) == 8

  vocab_size = results['model']['vocab_size']
  own = specs.from_config(c, vocab_size)
  prices = own.body.costs(8)  # the teacher is as large
  assert taught_by['flops'] == pytest.approx(prices.teaching(2))
  total = (own.train_flops + taught_by['flops']) * results['train']['tokens']
  assert results['train']['flops'] == pytest.approx(total)
  assert equal.train_flops(c, vocab_size) == pytest.approx(
    (own.train_flops + taught_by['flops']) * 4 * 2 * 8
  )


def test_a_finished_student_needs_its_teacher_no_more(student, tmp_path):
  c, workdir = student
  alone = tmp_path / 'alone'
  shutil.copytree(workdir, alone)
  c = c.copy_and_resolve_references()
  kept = json.loads((alone / 'config.json').read_text())
  kept['loss']['teacher'] = 'nowhere'
  (alone / 'config.json').write_text(json.dumps(kept))
  c.loss.teacher = 'nowhere'
  before = json.loads((alone / 'results.json').read_text())
  (alone / 'results.json').unlink()
  run.run(c, alone, 'evaluate')
  after = json.loads((alone / 'results.json').read_text())
  assert after['readouts'] == before['readouts']
  assert after['train'] == before['train']


def test_what_the_teacher_says_is_that_of_its_own_run(student, finished_run):
  c, _ = student
  text, folder = finished_run
  trained = run.load_model(small_run.make_full_config(text), folder)
  checked = specs.from_config(c, trained.tokenizer.vocab_size)
  task = run.load_task(checked.data)
  found = teacher.load(checked, task)
  tiny.assert_trees_equal(found.params, trained.params)
  tokens = np.arange(8)[None] % trained.tokenizer.vocab_size
  answer = found.answer(tokens)
  logits = tiny.logits(trained.params, tokens, model=trained.model)[-1]
  np.testing.assert_allclose(
    answer @ found.unembedding().T, logits, rtol=1e-5, atol=1e-5
  )

  # It sees the documents that its student sees.
  assert found.model.cfg.document_start is None
  model = dataclasses.replace(checked.model, document_start=3)
  apart = dataclasses.replace(checked, model=model)
  assert teacher.load(apart, task).model.cfg.document_start == 3


def refusal(c, workdir):
  """The line that refuses a run; nothing was written."""
  with pytest.raises(ConfigError) as error:
    run.run(c, workdir, 'train')
  assert not workdir.exists() or not any(workdir.iterdir())
  assert '\n' not in str(error.value)
  return str(error.value)


def test_a_teacher_that_is_no_run_is_refused(finished_run, tmp_path):
  text, folder = finished_run
  nowhere = tmp_path / 'nowhere'
  c = student_config(text, nowhere)
  expected = (
    f'loss.teacher={nowhere} has no checkpoint; give the directory of a run '
    'that was trained'
  )
  assert refusal(c, tmp_path / 'run') == expected
  shutil.copytree(folder, nowhere, ignore=shutil.ignore_patterns('checkpoints'))
  assert refusal(c, tmp_path / 'run') == expected


@pytest.mark.parametrize(
  'changes, parts',
  [
    (
      {'data.tokenizer': 'byte'},
      ('was trained with tokenizer=char, and data.* give byte; use its',),
    ),
    (
      {'data.seq_len': 16},
      ('has seen windows of 8 tokens, and data.seq_len=16 is longer',),
    ),
    (
      {'loss.teacher_top_k': 5000},
      ('loss.teacher_top_k=5000 of a vocabulary',),
    ),
    (
      {'loss.teacher': '~no_such_user/x'},
      ('loss.teacher=~no_such_user/x: there is no',),
    ),
  ],
  ids=lambda x: ' '.join(x),
)
def test_a_teacher_that_cannot_teach_is_refused(
  finished_run, tmp_path, changes, parts
):
  text, folder = finished_run
  c = student_config(text, folder)
  c.update_from_flattened_dict(changes)
  message = refusal(c, tmp_path / 'run')
  for part in parts:
    assert part in message


def test_a_damaged_teacher_is_named(finished_run, tmp_path):
  text, folder = finished_run
  broken = tmp_path / 'broken'
  shutil.copytree(folder, broken)
  (broken / 'tokenizer.json').write_text('{')
  message = refusal(student_config(text, broken), tmp_path / 'run')
  assert message.startswith(f'loss.teacher={broken}: {broken}')
  assert 'is damaged' in message
