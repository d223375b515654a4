"""Processes that may die without harm."""

import os
import signal

from ease_jax import machine
from ease_jax.study import workers


def die_or_work(what):
  if what == 'die':
    os.kill(os.getpid(), signal.SIGKILL)
  return f'did {what}'


def test_a_worker_that_dies_loses_its_own_task_only():
  worker = workers.Worker(die_or_work, machine.cores())
  said = []
  for what in ('a', 'die', 'b'):
    worker.give((what,))
    assert workers.ready([worker]) == [worker]
    said.append(worker.take())
  worker.stop()

  assert said == [
    'did a',
    'its process died (exit code -9); the same command goes on',
    'did b',
  ]
