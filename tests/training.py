"""Small training runs that several test files share."""

import dataclasses
import functools
import json
import os

import numpy as np

import tiny
from ease_jax import config, data, specs
from ease_jax.data import tokenizers
from ease_jax.train import checkpoint, loop, running, update

SEQ_LEN = 8
BATCH_SIZE = 4


def make_config(**changes):
  """Two layers; everything is on that depends on the step or on chance."""
  c = config.base()
  tiny.update_model(
    c.model,
    num_layers=2,
    dim=16,
    num_heads=2,
    num_kv_heads=1,
    mlp_dim=16,
    dropout=0.1,
  )
  c.loss.weights = 'uniform'
  c.loss.schedule = 'rotate'
  c.loss.token_fraction = 0.5
  c.optimizer.warmup_steps = 2
  c.optimizer.layer_decay = 0.9
  c.train.steps = 6
  c.train.batch_size = BATCH_SIZE
  c.train.accumulate = 2
  c.train.log_every = 1
  c.train.eval_every = 2
  c.train.checkpoint_every = 3
  c.train.update(changes)
  return c


def make_plain_config(**changes):
  """One that compiles faster."""
  c = make_config(accumulate=1, **changes)
  c.model.num_layers = 1
  c.model.dropout = 0.0
  c.loss.weights = 'final'
  c.loss.schedule = 'constant'
  c.loss.token_fraction = 1.0
  c.optimizer.layer_decay = 1.0
  return c


def make_specs(c):
  """The checked specs of a config."""
  return specs.from_config(c, tiny.VOCAB)


def small_specs(**changes):
  return make_specs(make_config(**changes))


def plain_specs(**changes):
  return make_specs(make_plain_config(**changes))


@functools.cache
def make_task():
  """Language modelling on random tokens."""
  rng = np.random.default_rng(0)

  def draw(size):
    return rng.integers(0, tiny.VOCAB, size).astype(np.int32)

  corpus = data.Corpus(
    source='text',
    tokenizer=tokenizers.Byte(),
    splits={'train': draw(500), 'select': draw(200), 'test': draw(200)},
    sha256='',
  )
  return data.LanguageModelling(corpus=corpus, seq_len=SEQ_LEN)


class CountedBatches:
  """Batches that call a function in place of the one after the last."""

  def __init__(self, batches, num_batches, instead):
    self._batches = batches
    self._left = num_batches
    self._instead = instead
    self.get_state = batches.get_state
    self.set_state = batches.set_state

  def __iter__(self):
    return self

  def __next__(self):
    if self._left == 0:
      self._instead()
    self._left -= 1
    return next(self._batches)


@dataclasses.dataclass(frozen=True)
class Interrupted(data.LanguageModelling):
  """A task in which something happens before one of the batches is read.

  Attributes:
    num_batches: batches that are read before.
    event: the function that is called then.
  """

  num_batches: int
  event: object

  def train_batches(self, batch_size, seed):
    batches = super().train_batches(batch_size, seed)
    return CountedBatches(batches, self.num_batches, self.event)


def interrupted_task(num_batches, event):
  task = make_task()
  return Interrupted(
    corpus=task.corpus,
    seq_len=task.seq_len,
    num_batches=num_batches,
    event=event,
  )


def die():
  raise KeyboardInterrupt


def dying_task(num_batches):
  """A task whose run is killed when it wants one batch more than these."""
  return interrupted_task(num_batches, die)


def run(run_specs, workdir, task=None, teacher=None):
  return loop.train(
    run_specs.train,
    workdir,
    run_specs.body,
    task or make_task(),
    loss_spec=run_specs.loss,
    opt_spec=run_specs.optimizer,
    seed=run_specs.seed,
    eval_batch_size=2,
    eval_max_tokens=64,
    teacher=teacher,
  )


def abstract_state(run_specs):
  return update.abstract_state(run_specs.body, run_specs.optimizer)


def newest(run_specs, workdir):
  """The newest checkpoint."""
  with checkpoint.Checkpoints(workdir, run_specs.train.keep) as checkpoints:
    return checkpoints.restore(abstract_state(run_specs))


def steps_on_disk(workdir):
  names = os.listdir(workdir / 'checkpoints')
  return sorted(int(name) for name in names if name.isdigit())


def of_clock(name):
  """Whether a number of a line of metrics is measured."""
  speeds = 'tokens_per_s', 'flops_per_s', 'mfu'
  return name in speeds or name.startswith('share_')


def events(workdir):
  """metrics.jsonl without what the clock says."""
  rows = []
  for line in (workdir / 'metrics.jsonl').read_text().splitlines():
    row = json.loads(line)
    del row['time']
    rows.append({name: row[name] for name in row if not of_clock(name)})
  return rows


def assert_same_run(run_specs, workdir, other):
  """Same bits, same data position, same counts, same metrics."""
  a = newest(run_specs, workdir)
  b = newest(run_specs, other)
  assert a.step == b.step
  assert a.data == b.data
  tiny.assert_trees_equal(a.state, b.state)
  assert events(workdir) == events(other)
  for restored in (a, b):
    restored.host.wall_s = 0.0
    assert set(restored.host.seconds) <= set(running.PARTS)
    restored.host.seconds = {}
  assert a.host == b.host
