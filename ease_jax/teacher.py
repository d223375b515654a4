"""A trained run as the teacher of another one (`loss.teacher`)."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from ease_jax import deploy, specs
from ease_jax import model as model_lib
from ease_jax import workdir as folders
from ease_jax.checks import ConfigError, need
from ease_jax.config import Config
from ease_jax.data.task import Task
from ease_jax.evaluate.facts import TeacherFacts
from ease_jax.specs import Specs
from ease_jax.train import saved
from ease_jax.train.targets import Teacher

FIELD = 'loss.teacher'


def flops(student: Specs) -> float:
  """Training FLOPs of one token that its teacher run takes; 0 without one.

  Args:
    student: specs of the run that is taught.

  Raises:
    ConfigError: there is no such run, or it cannot teach.
  """
  if not student.loss.teaching.run:
    return 0.0
  config = _read(student)
  size = student.model.vocab_size
  teacher = specs.from_config(config, size, specs.ANY_TOKEN)
  prices = teacher.body.costs(student.data.seq_len)
  loss = student.loss
  return prices.teaching(loss.teaching.heads(loss.taught_K))


def check(student: Specs) -> None:
  """Refuses a teacher run that cannot teach; reads its config alone.

  Args:
    student: specs of the run that is taught.

  Raises:
    ConfigError: there is no such run, or it cannot teach.
  """
  if student.loss.teaching.run:
    _read(student)


def load(student: Specs, task: Task) -> Teacher | None:
  """The teacher run of another one, from its best checkpoint.

  Whether it looks beyond documents is its student's choice: it answers what
  the student is asked.

  Args:
    student: specs of the run that is taught.
    task: what it learns.

  Returns:
    None where no run teaches.

  Raises:
    ConfigError: there is no such run, or it cannot teach.
  """
  run = student.loss.teaching.run
  if not run:
    return None
  config = _read(student)
  with _named(run):
    trained = deploy.load_model(config, deploy.trained_run(run, FIELD))
  deploy.check_tokens(f'{FIELD}={run}', trained.tokenizer, task)
  params = jax.tree.map(jnp.asarray, trained.params)
  checksum = f'{saved.checksum(params, {}):08x}'
  facts = TeacherFacts(run=run, checksum=checksum, flops=flops(student))
  start = student.model.document_start
  cfg = dataclasses.replace(trained.model.cfg, document_start=start)
  return Teacher(model_lib.build(cfg), params, facts)


def _read(student: Specs) -> Config:
  """The config of the teacher run.

  Raises:
    ConfigError: there is no such run, or it is of no use to this student.
  """
  run = student.loss.teaching.run
  folder = deploy.trained_run(run, FIELD)
  with _named(run):
    config = folders.read_config(folder)
    teacher = specs.from_config(config)

  need(
    teacher.data.task == student.data.task,
    f'{FIELD}={run} has learned data.task={teacher.data.task}, and this run '
    f'learns {student.data.task}; name a teacher of the same task',
  )
  need(
    teacher.data.seq_len >= student.data.seq_len,
    f'{FIELD}={run} has seen windows of {teacher.data.seq_len} tokens, and '
    f'data.seq_len={student.data.seq_len} is longer; lower it, or name a '
    'teacher of such windows',
  )
  return config


@contextlib.contextmanager
def _named(run: str) -> Iterator[None]:
  """Says of an error that it is the teacher's."""
  try:
    yield
  except ConfigError as error:
    raise ConfigError(f'{FIELD}={run}: {error}') from None
