"""What training costs: FLOPs by step, seconds by what they went to, peaks."""

import dataclasses
import json
import math

import fake_run
import jax
import numpy as np
import pytest
import training

from ease_jax import presets, specs
from ease_jax.presets import recurrence
from ease_jax.report import spending, write_report
from ease_jax.train import history, loop, peak, running, stages
from ease_jax.train.checkpoint import Checkpoints, Host

# Peaks.


@pytest.mark.parametrize(
  'kind, bfloat16, float32',
  [
    ('NVIDIA A100-SXM4-40GB', 312, 156),
    ('NVIDIA A100-PCIE-40GB', 312, 156),
    ('NVIDIA A100 80GB PCIe', 312, 156),
    ('NVIDIA H100 80GB HBM3', 989.5, 494.5),
    ('NVIDIA H100 PCIe', 756.5, 378),
    ('NVIDIA H200', 989.5, 494.5),
    ('NVIDIA L4', 121, 60),
    ('NVIDIA GeForce RTX 4090', 165.2, 82.6),
    ('TPU v4', 275, 275),
    ('TPU v5 lite', 197, 197),
    ('TPU v5e', 197, 197),
    ('TPU v5', 459, 459),
    ('TPU v5p', 459, 459),
    ('TPU v6 lite', 918, 918),
  ],
)
def test_published_peaks(kind, bfloat16, float32):
  assert peak.of_kind(kind, 'bfloat16') == bfloat16 * 1e12
  assert peak.of_kind(kind, 'float32') == float32 * 1e12


@pytest.mark.parametrize(
  'kind',
  [
    'cpu',
    'NVIDIA H100 80GB HBM3 MIG 1g.10gb',
    'NVIDIA GeForce RTX 4090 D',
    'NVIDIA L40',
    'TPU v7',
    'TPU v4 lite',
  ],
)
def test_no_peak_is_invented(kind):
  assert peak.of_kind(kind, 'bfloat16') is None


def test_full_float32_has_no_peak_of_fewer_bits(monkeypatch):
  monkeypatch.setattr(peak, 'of_kind', lambda kind, dtype: 5.0)
  assert peak.of_devices('float32') == 5.0
  with jax.default_matmul_precision('highest'):
    assert peak.of_devices('float32') is None
    assert peak.of_devices('bfloat16') == 5.0


# FLOPs.


def test_steps_are_counted_one_by_one():
  c = training.make_plain_config(runs='curriculum', runs_share=0.7)
  c.model.body = 'refine'
  c.model.segments = 3
  c.optimizer.name = 'muon'
  counting = training.make_specs(c).counting
  each = [counting.at(step) for step in range(c.train.steps)]
  assert each[0] < each[-1]
  assert np.mean(each) == pytest.approx(counting.mean, rel=1e-12)
  taught = dataclasses.replace(counting, beside=7.0)
  assert taught.at(0) == each[0] + 7.0
  assert taught.mean == counting.mean + 7.0


def test_steps_of_one_program_are_known():
  """Ways of a shortcut that have as many runs; any number of drawn runs."""
  c = recurrence.loopformer(presets.small(), 4, 1)
  counting = specs.from_config(c, 16).counting
  steps = range(40)
  ways = [stages.way(counting.loss, step, c.seed) for step in steps]
  lengths = {len(way_N) for way_N in ways}
  assert len(lengths) > 1
  assert len({counting.program(step) for step in steps}) == len(lengths)

  c = training.make_plain_config(runs='drawn', runs_most=2)
  c.model.body = 'refine'
  c.model.segments = 3
  counting = training.make_specs(c).counting
  steps = range(c.train.steps)
  drawn = {counting.plan(step).runs for step in steps}
  reached = {min(runs, counting.model.cfg.carry_backprop) for runs in drawn}
  assert len(drawn) > 1
  assert len({counting.program(step) for step in steps}) == len(reached)


# Seconds.


class Clock:
  """A clock that goes on when it is told."""

  def __init__(self):
    self.now_s = 100.0

  def monotonic(self):
    return self.now_s

  def takes(self, seconds):
    self.now_s += seconds


class Slow:
  """A metric that has to be waited for."""

  def __init__(self, clock):
    self._clock = clock

  def __array__(self, *unused_args, **unused_kwargs):
    self._clock.takes(8)
    return np.asarray(1.0)


COMPILING, DATA, EVALUATION, SAVING = 1000, 2, 30, 16


@pytest.fixture
def clock(monkeypatch):
  """Training in which everything takes whole seconds."""
  clock = Clock()

  def update(state, batch, **unused_specs):
    if update.is_new:
      clock.takes(COMPILING)
      update.is_new = False
    metrics = dict.fromkeys(('grad_norm', 'param_norm', 'learning_rate'), 1.0)
    metrics['loss'] = Slow(clock)
    return state._replace(step=state.step + 1), metrics

  def last_nll(*unused):
    clock.takes(EVALUATION)
    return 1.0

  save = Checkpoints.save

  def slow_save(self, *args):
    save(self, *args)
    clock.takes(SAVING)

  update.is_new = True
  monkeypatch.setattr(running, 'time', clock)
  monkeypatch.setattr(stages, 'train_step', update)
  monkeypatch.setattr(loop.passes, 'last_nll', last_nll)
  monkeypatch.setattr(Checkpoints, 'save', slow_save)
  return clock


class SlowBatches:
  """Batches that take their time; the run is killed at one of them."""

  def __init__(self, batches, clock, left):
    self._batches = batches
    self._clock = clock
    self._left = left
    self.get_state = batches.get_state
    self.set_state = batches.set_state

  def __next__(self):
    if self._left == 0:
      raise KeyboardInterrupt
    self._left -= 1
    self._clock.takes(DATA)
    return next(self._batches)


def run_slowly(clock, workdir, left=math.inf, **changes):
  """Six steps, a save at 2 and 4, an evaluation and a save at 3 and 6."""
  task = training.make_task()

  class Slowly(type(task)):
    def train_batches(self, batch_size, seed):
      return SlowBatches(super().train_batches(batch_size, seed), clock, left)

  run_specs = training.plain_specs(eval_every=3, checkpoint_every=2, **changes)
  slowly = Slowly(corpus=task.corpus, seq_len=task.seq_len)
  return training.run(run_specs, workdir, slowly)


def lines_of(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  found = [json.loads(line) for line in text.splitlines()]
  return [line for line in found if line['split'] == 'train']


def test_every_second_is_of_one_part(clock, tmp_path):
  run = run_slowly(clock, tmp_path)
  assert run.host.seconds == {
    'updates': 6 * 8,
    'data': 6 * DATA,
    'compiling': COMPILING,
    'evaluation': 2 * EVALUATION,
    'checkpoints': 4 * SAVING,
  }
  assert run.wall_s == sum(run.host.seconds.values())


def test_speeds_are_those_of_updates_alone(clock, tmp_path, monkeypatch):
  monkeypatch.setattr(peak, 'of_devices', lambda dtype: 1e6)
  run = run_slowly(clock, tmp_path)
  lines = lines_of(tmp_path)
  tokens = training.BATCH_SIZE * training.SEQ_LEN
  # The second batch is read before the numbers of the first update.
  first, *_, last = lines
  assert first['tokens_per_s'] == tokens / (2 * DATA + 8)
  seconds = 2 * DATA + 8 + COMPILING
  assert first['share_compiling'] == COMPILING / seconds
  # All batches were there when the last but one was read.
  assert last['tokens_per_s'] == tokens / 8
  counting = training.plain_specs().counting
  flops = dataclasses.replace(counting, seq_len=training.SEQ_LEN).mean
  for line in lines:
    shares = [line[f'share_{part}'] for part in running.PARTS]
    assert sum(shares) == pytest.approx(1)
    assert line['flops_per_s'] == pytest.approx(flops * line['tokens_per_s'])
    assert line['mfu'] == line['flops_per_s'] / 1e6

  facts = history.summary(
    6, run.host, updates_per_step=1, flops_per_token=flops
  )
  assert facts['seconds'] == run.host.seconds
  assert facts['flops_per_s'] == pytest.approx(
    flops * 6 * tokens / (6 * (8 + DATA))
  )
  assert facts['mfu'] == pytest.approx(facts['flops_per_s'] / 1e6)


def test_what_the_devices_cover_is_no_waiting(clock, tmp_path, monkeypatch):
  monkeypatch.setattr(running.Unread, 'is_going_on', True)
  run = run_slowly(clock, tmp_path)
  # Nothing is at work before the first batch and after a save.
  assert run.host.seconds['data'] == 4 * DATA
  assert run.host.seconds['updates'] == 6 * 8 + 2 * DATA


def test_seconds_survive_a_stop(clock, tmp_path):
  with pytest.raises(KeyboardInterrupt):
    run_slowly(clock, tmp_path, left=5)
  run = run_slowly(clock, tmp_path)
  # Steps 1 to 4 are of the first start; what came after step 4 was saved is
  # lost, as the seconds of saving it are.
  assert run.host.seconds == {
    'updates': 6 * 8,
    'data': 6 * DATA,
    'compiling': COMPILING,
    'evaluation': 2 * EVALUATION,
    'checkpoints': 3 * SAVING,
  }


def test_an_older_run_has_no_seconds():
  host = Host(tokens=1000, wall_s=20.0)
  facts = history.summary(6, host, updates_per_step=1, flops_per_token=7.0)
  assert not {'seconds', 'mfu', 'flops_per_s'} & set(facts)


def test_a_run_that_was_partly_elsewhere_has_no_mfu(clock, tmp_path):
  run = run_slowly(clock, tmp_path)  # on a CPU
  assert run.host.possible_flops is None
  facts = history.summary(6, run.host, updates_per_step=1, flops_per_token=7.0)
  assert 'mfu' not in facts
  assert facts['devices'] == '1 x cpu'


# The page.


def test_the_page_says_where_the_time_went(tmp_path):
  page = write_report(fake_run.write_run(tmp_path)).read_text()
  assert 'waiting for data' in page
  assert '132\u202fGFLOP/s on 1 x NVIDIA L4, 0.2\u202f% of' in page
  train = fake_run.results().train
  older = dataclasses.replace(train, seconds=None, flops_per_s=None)
  assert spending.rows(older) == []
  assert spending.speed(older) == ''
  unknown = dataclasses.replace(train, mfu=None)
  assert 'no published peak' in spending.speed(unknown)


@pytest.mark.parametrize(
  'value, text',
  [(0.0, '0'), (2e3, '2e+03'), (2e6, '2 M'), (4.2e10, '42 G'), (3e15, '3 P')],
)
def test_flops_are_read_by_people(value, text):
  assert spending.flops(value).replace('\u202f', ' ').strip() == text
