"""Training: exact resumption, accumulation, stopping, checkpoints."""

import functools
import io
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from ease_jax import config, validation
from ease_jax import model as model_lib
from ease_jax.config import ConfigError
from ease_jax.core.objective import LossSpec
from ease_jax.train import checkpoint, optimizer, update, writers
from ease_jax.train import loop as train_loop
from ease_jax.train.optimizer import OptimizerSpec


def make_config(**changes):
  """Two layers; everything on that depends on the step or on chance."""
  c = config.base()
  c.data.seq_len = 8
  c.model.update(
    num_layers=2, dim=16, num_heads=2, num_kv_heads=1, mlp_dim=16, dropout=0.1
  )
  c.loss.update(weights='uniform', schedule='rotate', token_fraction=0.5)
  c.optimizer.update(warmup_steps=2, layer_decay=0.9)
  c.train.update(
    steps=6,
    batch_size=4,
    accumulate=2,
    log_every=1,
    eval_every=2,
    checkpoint_every=3,
    keep=2,
  )
  c.evaluate.update(batch_size=2, max_tokens=64)
  c.train.update(changes)
  validation.validate(c)
  return c


def make_plain_config(**changes):
  """One that compiles faster."""
  c = make_config(accumulate=1, **changes)
  c.model.update(num_layers=1, dropout=0.0)
  c.loss.update(weights='final', schedule='constant', token_fraction=1.0)
  c.optimizer.layer_decay = 1.0
  return c


def make_model(c):
  return model_lib.build(config.model_config(c, tiny.VOCAB))


@functools.cache
def make_corpus():
  rng = np.random.default_rng(0)
  make = lambda n: rng.integers(0, tiny.VOCAB, n).astype(np.int32)
  return types.SimpleNamespace(
    splits={'train': make(500), 'select': make(200), 'test': make(200)}
  )


def run(c, workdir):
  return train_loop.train(c, str(workdir), make_model(c), make_corpus())


def steps_on_disk(workdir):
  names = os.listdir(workdir / 'checkpoints')
  return sorted(int(name) for name in names if name.isdigit())


def read(c, workdir):
  """The newest checkpoint."""
  abstract = update.abstract_state(make_model(c), OptimizerSpec.from_config(c))
  with checkpoint.Checkpoints(workdir, c.train.keep) as checkpoints:
    return checkpoints.restore(abstract)


def events(workdir):
  """metrics.jsonl without what the clock says."""
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  clock = ('time', 'tokens_per_s')
  return [
    {k: v for k, v in json.loads(line).items() if k not in clock}
    for line in lines
  ]


def assert_same_run(c, one, other):
  a, b = read(c, one), read(c, other)
  assert (a.step, a.data) == (b.step, b.data)
  tiny.assert_trees_equal(a.state, b.state)
  assert events(one) == events(other)
  a.host.wall_s = b.host.wall_s = 0.0
  assert a.host == b.host


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
  """A run that nothing interrupted."""
  workdir = tmp_path_factory.mktemp('straight')
  return workdir, run(make_config(), workdir)


def interrupt(monkeypatch, step):
  """Lets the run die before the update `step` (from 0)."""
  update = train_loop._Run._update

  def dying(self, *args):
    if self.step == step:
      raise KeyboardInterrupt
    update(self, *args)

  monkeypatch.setattr(train_loop._Run, '_update', dying)


# Resuming (R29).


@pytest.mark.parametrize('step', [2, 4, 5])
def test_resumed_run_equals_uninterrupted(
  straight, tmp_path, monkeypatch, step
):
  c = make_config()
  with monkeypatch.context() as patch:
    interrupt(patch, step)
    with pytest.raises(KeyboardInterrupt):
      run(c, tmp_path)
  assert 0 < steps_on_disk(tmp_path)[-1] < 6
  summary = run(c, tmp_path)
  assert_same_run(c, straight[0], tmp_path)
  assert summary['tokens'] == straight[1]['tokens'] == 6 * 4 * 8


@pytest.mark.parametrize('body', ['refine', 'hrm'])
def test_a_body_of_segments_resumes_too(tmp_path, monkeypatch, body):
  """First states, exploration of halting and updates per segment."""
  c = make_config(accumulate=1, updates='per_segment')
  init = 'random' if body == 'refine' else 'fixed'
  c.model.update(body=body, segments=2, num_layers=1, carry_init=init)
  c.loss.update(weights='segment_ends', halt_exploration=0.5)
  validation.validate(c)
  run(c, tmp_path / 'straight')
  with monkeypatch.context() as patch:
    interrupt(patch, 4)
    with pytest.raises(KeyboardInterrupt):
      run(c, tmp_path / 'resumed')
  assert 0 < steps_on_disk(tmp_path / 'resumed')[-1] < 6
  summary = run(c, tmp_path / 'resumed')
  assert_same_run(c, tmp_path / 'straight', tmp_path / 'resumed')
  assert summary['updates'] == 2 * summary['steps'] == 12


def test_finished_run_trains_nothing(straight, monkeypatch):
  workdir, summary = straight
  before = events(workdir)
  monkeypatch.setattr(train_loop._Run, '_update', None)
  assert run(make_config(), workdir) == summary
  assert events(workdir) == before
  assert summary['flops'] > 0 and summary['tokens_per_s'] > 0


def start_process(workdir, **changes):
  root = str(pathlib.Path(__file__).parent.parent)
  return subprocess.Popen(
    [sys.executable, __file__, str(workdir), json.dumps(changes)],
    env=os.environ | {'PYTHONPATH': root},
    stderr=subprocess.PIPE,
    text=True,
  )


def wait_for(path, process):
  deadline = time.monotonic() + 60
  while not path.exists():
    assert process.poll() is None, process.stderr.read()
    assert time.monotonic() < deadline
    time.sleep(0.002)


def test_sigkill_and_sigterm_lose_nothing(tmp_path):
  changes = dict(steps=300, eval_every=20, checkpoint_every=10, log_every=7)
  workdir = tmp_path / 'killed'
  for sign, step in ((signal.SIGKILL, 20), (signal.SIGTERM, 60)):
    process = start_process(workdir, **changes)
    with process:
      wait_for(workdir / 'checkpoints' / str(step), process)
      process.send_signal(sign)
      _, said = process.communicate(timeout=60)
    assert process.returncode == (-9 if sign == signal.SIGKILL else 143), said
  assert 'stopped by SIGTERM at step' in said.splitlines()[-1]
  c = make_plain_config(**changes)
  assert steps_on_disk(workdir)[-1] < 300
  run(c, workdir)
  run(c, tmp_path / 'straight')
  assert_same_run(c, workdir, tmp_path / 'straight')


# The update.


def test_accumulation_equals_one_large_batch():
  c = make_config()
  c.model.dropout, c.loss.token_fraction = 0.0, 1.0
  model, batch = make_model(c), tiny.batch(rows=4, length=8)
  # Ragged: micro-batches must count by their tokens.
  batch['mask'][0, 2:] = batch['mask'][3, 5:] = 0
  gradient = functools.partial(
    update.mean_gradient,
    tiny.params(model),
    batch,
    jnp.int32(0),
    model=model,
    loss_spec=LossSpec.from_config(c),
  )
  one, four = (
    jax.jit(functools.partial(gradient, accumulate=n))(jax.random.key(0))
    for n in (1, 4)
  )
  tiny.assert_trees_close(one, four, rtol=1e-6, atol=1e-6)


def test_learning_rate_warms_up_and_decays():
  spec = OptimizerSpec.from_config(make_config(steps=12))
  rate = [float(optimizer.learning_rate(spec, step)) for step in range(12)]
  np.testing.assert_allclose(rate[:2], [5e-4, 1e-3], rtol=1e-6)
  np.testing.assert_allclose(rate[-1], 1e-4, rtol=1e-5)
  assert all(a > b for a, b in zip(rate[1:], rate[2:]))


def updates_of(c, grads, params):
  tx = optimizer.build(OptimizerSpec.from_config(c))
  return tx.update(grads, tx.init(params), params)[0]


def test_lower_layers_learn_slower():
  c = make_config()
  c.optimizer.layer_decay = 0.5
  names = ('embed', 'layer_0', 'layer_1', 'readout_norm', 'unembed')
  params = {name: {'w': jnp.ones((2, 2))} for name in names}
  updates = updates_of(c, params, params)
  size = {name: float(updates[name]['w'][0, 0]) for name in names}
  ratio = {name: size[name] / size['unembed'] for name in names}
  assert ratio == pytest.approx(dict(zip(names, (0.25, 0.5, 1, 1, 1))))


def test_weight_decay_is_on_matrices_only():
  c = make_config()
  params = {'layer_1': {'w': jnp.ones((2, 2)), 'scale': jnp.ones(2)}}
  grads = jax.tree.map(jnp.zeros_like, params)
  updates = updates_of(c, grads, params)['layer_1']
  assert float(updates['w'][0, 0]) == pytest.approx(-5e-4 * 0.1)
  assert float(updates['scale'][0]) == 0


def test_muon_orthogonalises_layer_matrices_and_leaves_the_rest_to_adamw():
  c = make_config()
  c.optimizer.update(
    layer_decay=1.0, weight_decay=0.0, clip_norm=0.0, muon_learning_rate=0.5
  )
  draw = np.random.default_rng(0).normal
  grads = {
    'embed': jnp.asarray(draw(size=(8, 6)), jnp.float32),
    'layer_0': {
      'kernel': jnp.asarray(draw(size=(6, 8)), jnp.float32),
      'scale': jnp.asarray(draw(size=6), jnp.float32),
    },
  }
  params = jax.tree.map(jnp.ones_like, grads)
  adamw = updates_of(c, grads, params)
  c.optimizer.name = 'muon'
  muon = updates_of(c, grads, params)
  kernel = muon['layer_0'].pop('kernel')
  # Half of the peak, since the first of two warm-up updates has half the rate.
  size = np.linalg.svd(kernel, compute_uv=False) / 0.25 / (8 / 6) ** 0.5
  assert size.min() > 0.6 and size.max() < 1.3
  assert np.linalg.svd(grads['layer_0']['kernel'])[1].min() < 0.6 * 1.3
  del adamw['layer_0']['kernel']
  tiny.assert_trees_close(muon, adamw)


@pytest.mark.parametrize('clip_norm, same', [(1.0, True), (0.0, False)])
def test_clipping(clip_norm, same):
  c = make_config()
  # So large an eps makes Adam's update proportional to the gradient.
  c.optimizer.update(clip_norm=clip_norm, eps=1e6, weight_decay=0.0)
  params = {'embed': jnp.ones((2, 2))}
  one = updates_of(c, {'embed': jnp.full((2, 2), 10.0)}, params)['embed']
  two = updates_of(c, {'embed': jnp.full((2, 2), 20.0)}, params)['embed']
  assert np.allclose(one, two, rtol=1e-4, atol=0) is same


# When to stop.


def test_patience_stops_and_the_best_checkpoint_stays(tmp_path, monkeypatch):
  loss = iter([3.0, 2.0, 2.5, 2.0, 2.6, 1.0])
  monkeypatch.setattr(train_loop.evaluate, 'last_nll', lambda *_: next(loss))
  c = make_plain_config(eval_every=1, checkpoint_every=1, patience=3, keep=1)
  summary = run(c, tmp_path)
  assert (summary['steps'], summary['best_step']) == (5, 2)
  assert steps_on_disk(tmp_path) == [2, 5]
  spec = OptimizerSpec.from_config(c)
  best = checkpoint.restore_best(
    tmp_path, update.abstract_state(make_model(c), spec)
  )
  assert int(best.state.step) == 2 and best.newest_step == 5
  monkeypatch.setattr(train_loop._Run, '_update', None)
  assert run(c, tmp_path) == summary  # stopped for good


def test_divergence_stops_and_spares_the_last_good_checkpoint(
  tmp_path, monkeypatch
):
  c, step = make_config(eval_every=2, checkpoint_every=2), train_loop.train_step

  def poisoned(state, *args, **kwargs):
    if int(state.step) == 3:  # so that update 4, before a checkpoint, is NaN
      nan = jax.tree.map(lambda x: x * jnp.nan, state.params)
      state = state._replace(params=nan)
    return step(state, *args, **kwargs)

  monkeypatch.setattr(train_loop, 'train_step', poisoned)
  with pytest.raises(train_loop.TrainingDiverged) as caught:
    run(c, tmp_path)
  for part in (
    'step 4',
    'loss nan',
    'learning rate 0.0',
    'gradient norm nan',
    'checkpoint: that of step 2',
  ):
    assert part in str(caught.value)
  assert '\n' not in str(caught.value)
  assert steps_on_disk(tmp_path) == [2]
  assert all(e['step'] < 4 for e in events(tmp_path))
  assert np.isfinite(read(c, tmp_path).state.params['embed']).all()


def test_too_large_learning_rate_diverges(tmp_path):
  c = make_plain_config(eval_every=1, checkpoint_every=1)
  c.optimizer.update(learning_rate=1e30, weight_decay=0.0)
  with pytest.raises(train_loop.TrainingDiverged, match='learning rate 5e.29'):
    run(c, tmp_path)
  assert steps_on_disk(tmp_path) == []


# Checkpoints.


def array_files(folder):
  return [p for p in (folder / 'state').rglob('d/*') if p.is_file()]


def truncate(folder):
  for path in array_files(folder):
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(folder):
  for path in array_files(folder):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_a_note(folder):
  path = folder / 'notes' / 'metadata'
  path.write_text(path.read_text().replace('"bad_evals": ', '"bad_evals": 1'))


def remove_notes(folder):
  (folder / 'notes' / 'metadata').unlink()


# A read that fails may leave one of Orbax's own futures behind.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize(
  'damage', [truncate, flip_a_bit, change_a_note, remove_notes]
)
def test_damaged_newest_checkpoint_falls_back(
  straight, tmp_path, capfd, damage
):
  c = make_config()
  run(c, tmp_path)
  newest = steps_on_disk(tmp_path)[-1]
  damage(tmp_path / 'checkpoints' / str(newest))
  capfd.readouterr()
  run(c, tmp_path)
  lines = capfd.readouterr().err.splitlines()
  warnings = [line for line in lines if 'select' not in line]
  assert len(warnings) == 1, warnings
  assert warnings[0].startswith('ease_jax: warning: checkpoint')
  assert f'checkpoints/{newest} is unreadable' in warnings[0]
  assert (tmp_path / 'damaged' / str(newest)).is_dir()
  assert_same_run(c, straight[0], tmp_path)


def test_only_damaged_checkpoints_are_an_error(tmp_path):
  c = make_config()
  run(c, tmp_path)
  for step in steps_on_disk(tmp_path):
    truncate(tmp_path / 'checkpoints' / str(step))
  for attempt in (
    lambda: run(c, tmp_path),
    lambda: checkpoint.restore_best(
      tmp_path,
      update.abstract_state(make_model(c), OptimizerSpec.from_config(c)),
    ),
  ):
    with pytest.raises(ConfigError) as caught:
      attempt()
    message = str(caught.value)
    assert str(tmp_path / 'checkpoints') in message and '\n' not in message
    assert 'delete it to start again' in message


def test_no_checkpoint_is_an_error_for_evaluation(tmp_path):
  with pytest.raises(ConfigError, match='run --mode=train first'):
    checkpoint.restore_best(tmp_path, None)


# What it says.


class Terminal(io.StringIO):
  def isatty(self):
    return True


def talk(stream, workdir):
  values = {'loss': 2.0, 'tokens_per_s': 1234.5}
  with writers.Writers(workdir, 10, 0, tensorboard=False, stream=stream) as w:
    w.write(5, 1.0, 'train', values)
    w.write(5, 1.5, 'select', {'loss': 2.5, 'best_loss': 2.25})
  return stream.getvalue()


def test_progress_line_is_quiet_outside_a_terminal(tmp_path):
  assert talk(io.StringIO(), tmp_path) == (
    'step 5/10  select loss 2.5000  best 2.2500\n'
  )
  line = talk(Terminal(), tmp_path)
  assert '\r' in line and 'loss 2.0000  1,234 tokens/s  0:00 left' in line


def test_metrics_are_cut_at_the_resumed_step(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
  writers.keep_until(path, 2)
  assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_metrics_are_finite_json(straight):
  rows = events(straight[0])
  assert [r['step'] for r in rows if r['split'] == 'train'] == [*range(1, 7)]
  assert [r['step'] for r in rows if r['split'] == 'select'] == [2, 4, 6]
  assert all(
    math.isfinite(v) for r in rows for v in r.values() if not isinstance(v, str)
  )


def test_missing_tensorboard_names_the_extra(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorboardX', None)
  with pytest.raises(ConfigError, match=r'ease_jax\[tensorboard\]'):
    run(make_config(tensorboard=True), tmp_path)


def test_tensorboard_events(tmp_path):
  pytest.importorskip('tensorboardX')
  run(make_config(tensorboard=True), tmp_path)
  assert list((tmp_path / 'tensorboard').iterdir())


def test_duration():
  assert writers.duration(90.4) == '1:30'
  assert writers.duration(3700) == '1:01:40'


def test_profiler_trace(tmp_path, monkeypatch):
  monkeypatch.setattr(train_loop, 'PROFILE_STEPS', range(2, 4))
  run(make_config(profile=True), tmp_path)
  assert list((tmp_path / 'profile').rglob('*.xplane.pb'))


if __name__ == '__main__':  # the process that gets killed
  pathlib.Path(sys.argv[1]).mkdir(exist_ok=True)
  try:
    run(make_plain_config(**json.loads(sys.argv[2])), sys.argv[1])
  except train_loop.Preempted as stop:
    print(stop, file=sys.stderr)
    sys.exit(143)
