"""Rows that run a number of segments each of its own (Parcae, 2604.12946)."""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training

import tiny
from ease_jax.core.objective import LossSpec
from ease_jax.model import with_segments
from ease_jax.train import loss as losses
from ease_jax.train import update
from ease_jax.train.rows import RUNS
from ease_jax.train.stages import plan, planned, stage

HERE = pathlib.Path(__file__).parent
SEGMENTS = 4
JOINED = 2  # runs at the end of each row that gradients reach
MODEL = tiny.refine(
  segments=SEGMENTS,
  num_layers=1,
  prelude=1,
  coda=1,
  carry_backprop=JOINED,
  carry_init='learned',
  inject='decay',
  tie_embeddings=True,
)
FINAL = LossSpec(
  (0.0,) * (SEGMENTS - 1) + (1.0,), segments=SEGMENTS, carry_backprop=JOINED
)
BATCH = tiny.batch(rows=3)


def drawn(steps=8, most=3, **changes):
  """A config of four runs of one layer, of which each row draws some."""
  c = training.make_plain_config(
    steps=steps, runs='drawn_rows', runs_most=most, **changes
  )
  tiny.update_model(
    c.model,
    body='refine',
    segments=SEGMENTS,
    num_layers=1,
    carry_backprop=JOINED,
  )
  return c


@functools.partial(jax.jit, static_argnames=('model', 'spec'))
def jitted(params, model, spec, batch, before):
  key = jax.random.key(0)
  return losses.grid_gradient(params, model, spec, batch, 0, key, None, before)


def gradient(runs_B, mask_B=(1, 1, 1), total=None):
  """Gradient and metrics where rows run so often, and some of them count."""
  total = max(JOINED, *runs_B) if total is None else total
  now = stage(MODEL, FINAL, total)
  batch = BATCH | {RUNS: np.asarray(runs_B, np.int32)}
  batch['mask'] = BATCH['mask'] * np.float32(mask_B)[:, None]
  before = np.int32(now.before)
  return jitted(tiny.params(MODEL), now.model, now.loss, batch, before)


def alone(runs, mask_B=(1, 1, 1)):
  """The same where all rows run so often, and none waits."""
  now = stage(MODEL, FINAL, runs)
  batch = dict(BATCH)
  batch['mask'] = BATCH['mask'] * np.float32(mask_B)[:, None]
  before = np.int32(now.before)
  return jitted(tiny.params(MODEL), now.model, now.loss, batch, before)


# ------------------------------------------------------------------- numbers


def test_every_row_draws_as_a_batch_does():
  """Mean S + 1 and the variance of a log-normal Poisson."""
  spec = training.make_specs(drawn(steps=1000, most=9)).train
  draw = functools.partial(spec.rows_at, segments=SEGMENTS)
  runs_NxB = np.stack([draw(step, seed=3) for step in range(1000)])
  assert runs_NxB.shape == (1000, training.BATCH_SIZE)
  assert runs_NxB.dtype == np.int32
  assert runs_NxB.min() == 1
  assert np.mean(runs_NxB) == pytest.approx(1 + SEGMENTS, rel=0.05)
  variance = SEGMENTS + SEGMENTS**2 * np.expm1(0.25)
  np.testing.assert_allclose(runs_NxB.var(0), variance, rtol=0.25)
  together = np.corrcoef(runs_NxB, rowvar=False)
  assert np.abs(together - np.eye(training.BATCH_SIZE)).max() < 0.12

  # Of seed and step alone, whatever was drawn before.
  np.testing.assert_array_equal(draw(7, seed=3), runs_NxB[7])
  assert (draw(7, seed=4) != runs_NxB[7]).any()
  assert (runs_NxB[7] != runs_NxB[8]).any()


def test_an_update_runs_as_often_as_its_longest_row():
  spec = training.make_specs(drawn(steps=200, most=2))
  for step in range(200):
    runs_B = spec.train.rows_at(step, SEGMENTS, 0)
    assert runs_B.max() <= 2 * SEGMENTS
    now = plan(spec.train, spec.body, step, 0)
    assert now.runs == max(JOINED, runs_B.max())
  assert training.plain_specs().train.rows_at(0, SEGMENTS, 0) is None


def test_one_program_runs_any_numbers():
  spec = training.make_specs(drawn(steps=100, batch_size=1))
  least = min(spec.train.rows_at(step, SEGMENTS, 0)[0] for step in range(100))
  assert least < JOINED
  plans = [plan(spec.train, spec.body, step, 0) for step in range(100)]
  assert len({now.runs for now in plans}) > 4
  stages = [planned(spec.body, spec.loss, now) for now in plans]
  assert len({(now.model, now.loss) for now in stages}) == 1


def test_training_costs_what_is_run_for_the_longest_row():
  c = drawn(steps=50)
  spec = training.make_specs(c)
  longest = [spec.train.rows_at(step, SEGMENTS, 0).max() for step in range(50)]
  c.train.runs = 'constant'
  c.train.runs_most = 4
  c.model.segments = JOINED
  two = training.make_specs(c)
  run = two.body.costs(c.data.seq_len).segment
  more = np.mean([max(0, runs - JOINED) for runs in longest])
  assert spec.train_flops == pytest.approx(two.train_flops + more * run)


# ----------------------------------------------------------------- gradients


@pytest.mark.parametrize('runs', [2, 3, 6])
def test_rows_of_one_number_are_the_plain_run(runs):
  """The loss bit for bit, the gradient up to the order of its sums."""
  got, metrics = gradient([runs] * 3)
  expected, plain = alone(runs)
  assert metrics['loss'] == plain['loss']
  tiny.assert_trees_close(got, expected, 1e-4, 1e-6)


def test_rows_that_run_less_than_is_joined_wait_in_between():
  got, metrics = gradient([1] * 3)
  expected, plain = alone(1)
  tiny.assert_trees_close(got, expected, 1e-4, 1e-6)
  np.testing.assert_allclose(metrics['loss'], plain['loss'], rtol=1e-6)


@pytest.mark.parametrize('others', [(1, 1), (4, 2), (9, 3)])
def test_a_row_does_not_know_how_often_others_run(others):
  """Bit for bit: its loss, and the gradient of its loss."""
  only = (1, 0, 0)
  got = gradient([3, *others], only)
  expected = gradient([3, 3, 3], only)
  tiny.assert_trees_equal(got, expected)
  # Nor how often all run that nobody needs.
  tiny.assert_trees_equal(gradient([3, *others], only, total=12), expected)


def test_gradients_reach_the_last_runs_of_each_row():
  """Their sum is that of plain runs, a row each, of any length."""
  runs_B = [1, 5, 3]
  got, metrics = gradient(runs_B)
  rows = [alone(runs, np.eye(3)[b]) for b, runs in enumerate(runs_B)]
  expected = jax.tree.map(
    lambda *each: sum(each) / 3, *[row[0] for row in rows]
  )
  tiny.assert_trees_close(got, expected, 1e-4, 1e-6)
  loss = np.mean([row[1]['loss'] for row in rows])
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-5)


def test_micro_batches_add_up():
  """Each has its rows' numbers, and runs as often as the whole batch."""
  batch = tiny.batch(rows=4) | {RUNS: np.int32([1, 5, 3, 2])}
  now = stage(MODEL, FINAL, 5)
  mean = functools.partial(
    update.mean_gradient,
    tiny.params(MODEL),
    batch,
    0,
    model=now.model,
    loss_spec=now.loss,
    before=np.int32(now.before),
  )
  one, _ = jax.jit(lambda: mean(jax.random.key(0), accumulate=1))()
  two, _ = jax.jit(lambda: mean(jax.random.key(0), accumulate=2))()
  tiny.assert_trees_close(two, one, 1e-4, 1e-6)


def test_a_row_is_read_after_its_last_run():
  """As a model of so many segments answers."""
  runs_B = [1, 5, 3]
  params = tiny.params(MODEL)
  for b, runs in enumerate(runs_B):
    model = with_segments(MODEL, runs)
    logits_BxTxV = tiny.logits(params, BATCH['tokens'], model=model)[-1]
    log_p_TxV = jax.nn.log_softmax(logits_BxTxV[b])
    expected = -log_p_TxV[np.arange(12), BATCH['targets'][b]].mean()
    _, metrics = gradient(runs_B, np.eye(3)[b])
    np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-5)


# -------------------------------------------------------------- two devices


STEP = 3


def rows_of_their_own():
  """A config whose rows draw, and what is drawn for a batch."""
  spec = training.make_specs(drawn())
  runs_B = spec.train.rows_at(STEP, SEGMENTS, 0)
  assert len(set(runs_B)) > 1
  return spec, {RUNS: runs_B}


def one_number_for_all():
  """A config that draws one number for a batch, which is not its last one."""
  c = drawn()
  c.train.runs = 'drawn'
  return training.make_specs(c), {}


def two_devices(spec, more):
  """An update on two devices is that on one."""
  from jax.sharding import Mesh, NamedSharding, PartitionSpec

  drawn_plan = plan(spec.train, spec.body, step=STEP, seed=0)
  now = planned(spec.body, spec.loss, drawn_plan)
  batch = tiny.batch(training.BATCH_SIZE, training.SEQ_LEN) | more
  params = tiny.params(spec.body)
  before = np.int32(now.before)
  whole, _ = jitted(params, now.model, now.loss, batch, before)

  mesh = Mesh(np.asarray(jax.devices()), 'rows')
  assert mesh.size == 2
  by_row = NamedSharding(mesh, PartitionSpec('rows'))
  shared = jax.device_put(batch, by_row)
  params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
  split, _ = jitted(params, now.model, now.loss, shared, before)
  tiny.assert_trees_close(split, whole, 1e-4, 1e-6)
  assert float(jnp.abs(whole['layer_0']['mlp']['up']['kernel']).max()) > 0


def on_two_devices():
  """What the process of the test does."""
  for drawing in (rows_of_their_own, one_number_for_all):
    two_devices(*drawing())
    print(drawing.__name__, 'is close')


def test_two_devices_update_as_one():
  """Half of the rows on each; what they run is drawn for the whole batch."""
  done = subprocess.run(
    [sys.executable, '-c', 'import test_rows; test_rows.on_two_devices()'],
    cwd=HERE,
    env=os.environ
    | {
      'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
      'JAX_PLATFORMS': 'cpu',
      'PYTHONPATH': os.pathsep.join([str(HERE.parent), str(HERE)]),
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  assert done.returncode == 0, done.stdout
  assert done.stdout.count('is close') == 2
