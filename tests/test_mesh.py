"""Many devices: the rules alone, and eight virtual devices against one.

What needs devices is done by one process for all tests, `on_eight_devices`.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import jax
import mesh_methods
import numpy as np
import pytest
import training
from jax.sharding import PartitionSpec

import tiny
from ease_jax import arrays, sharding, specs
from ease_jax.checks import ConfigError
from ease_jax.core.policies import OperatingPoint
from ease_jax.evaluate import passes, traces
from ease_jax.model import chunks
from ease_jax.sharding import MeshSpec
from ease_jax.train import checkpoint, saved
from ease_jax.train.paths import leaves
from ease_jax.train.update import init_state, train_step

HERE = pathlib.Path(__file__).parent
ROWS, LENGTH, VOCAB = 16, 8, 64
DIM = 16  # of `training.make_config`
MESHES = {
  'data': MeshSpec(data=8),
  'fsdp': MeshSpec(fsdp=8),
  'all': MeshSpec(data=2, fsdp=2, tensor=2),
}
CLOSE = 2e-5

# ---------------------------------------------------------- without devices


@pytest.mark.parametrize(
  'path, shape, axes',
  [
    ('embed', (64, 16), ('tensor', 'fsdp')),
    ('unembed', (64, 16), ('tensor', 'fsdp')),
    ('layer_0/query/kernel', (16, 32), ('fsdp', 'tensor')),
    ('layer_0/mlp/gate/kernel', (16, 32), ('fsdp', 'tensor')),
    ('layer_0/value/bias', (32,), ('tensor',)),
    ('layer_0/out/kernel', (32, 16), ('tensor', 'fsdp')),
    ('layer_0/mlp/down/kernel', (32, 16), ('tensor', 'fsdp')),
    ('layer_0/of_runs/run_1/up/out_of', (4, 32), ('fsdp', 'tensor')),
    ('layer_0/attention_norm/scale', (16,), ()),
    (
      '1/inner_states/muon/inner_state/0/mu/layer_0/out/kernel',
      (32, 16),
      ('tensor', 'fsdp'),
    ),
    ('streams/inject/kernel', (32, 16), ('fsdp',)),
    ('streams/inject/kernel', (31, 16), (None, 'fsdp')),
    ('layer_0/query/kernel', (15, 32), (None, 'tensor')),
    ('layer_0/key/kernel', (15, 31), ()),
    ('step', (), ()),
  ],
)
def test_where_a_parameter_lies(path, shape, axes):
  spec = MeshSpec(data=1, fsdp=2, tensor=2)
  assert sharding.of_parameter(path, shape, spec) == PartitionSpec(*axes)
  # On one device everything is whole.
  assert sharding.of_parameter(path, shape, MeshSpec()) == PartitionSpec()


def test_what_a_device_holds_of_a_parameter():
  spec = MeshSpec(data=2, fsdp=4, tensor=2)
  assert sharding.local_shape('embed', (64, 16), spec) == (32, 4)
  assert sharding.local_shape('step', (), spec) == ()


@pytest.mark.parametrize(
  'mesh, devices, message',
  [
    ({'data': 8}, 4, 'mesh.tensor=1 asks for 8 devices, and there are 4'),
    ({'data': -1, 'fsdp': 3}, 8, 'does not divide the 8 devices'),
    ({'data': 3}, 8, 'train.batch_size=8 is not divisible by mesh.data=3'),
    ({'data': 2, 'fsdp': 8}, 16, 'by mesh.data=2 times mesh.fsdp=8; change'),
    ({'tensor': 3}, 8, 'num_heads=4 is not divisible by mesh.tensor=3'),
    ({'tensor': 4}, 8, 'num_kv_heads=2 is not divisible by mesh.tensor=4'),
    ({'tensor': 2}, 8, 'data.tokenizer=23 is not divisible by mesh.tensor=2'),
  ],
)
def test_what_cannot_be_cut_is_refused(mesh, devices, message):
  c = training.config.base()
  c.model.block.attention.num_kv_heads = 2
  c.mesh.update(mesh)
  with pytest.raises(ConfigError, match=re.escape(message)):
    specs.on_devices(training.make_specs(c), devices)


def test_micro_batches_are_cut_too():
  c = training.config.base()
  c.train.accumulate = 4
  c.mesh.data = 4
  message = re.escape('train.batch_size=8 / train.accumulate=4 is not')
  with pytest.raises(ConfigError, match=message):
    specs.on_devices(training.make_specs(c), 4)


def test_the_rest_of_the_devices():
  assert MeshSpec(data=-1, fsdp=2).on(8) == MeshSpec(data=4, fsdp=2)
  assert MeshSpec().on(8) == MeshSpec()
  with pytest.raises(ConfigError, match='mesh.data=0 leaves no device'):
    MeshSpec(data=0)


# -------------------------------------------------------- on eight devices


def run_specs():
  """Muon, dropout and micro-batches; everything can be cut into eight."""
  c = training.make_config(batch_size=ROWS)
  c.model.num_layers = 1
  c.model.block.attention.num_kv_heads = 2
  c.model.readouts = ()
  c.model.tie_embeddings = False
  c.loss.schedule = 'constant'
  c.loss.token_fraction = 1.0
  c.optimizer.name = 'muon'
  return specs.from_config(c, VOCAB)


def make_batch():
  rng = np.random.default_rng(0)
  token_BxT1 = rng.integers(0, VOCAB, (ROWS, LENGTH + 1)).astype(np.int32)
  mask_BxT = np.ones((ROWS, LENGTH), np.float32)
  mask_BxT[3, 2:] = 0
  return {
    'tokens': token_BxT1[:, :-1],
    'targets': token_BxT1[:, 1:],
    'mask': mask_BxT,
  }


def trained(own, steps=3):
  """The state before and after some updates, their losses, and the program."""
  state = init_state(jax.random.key(0), model=own.body, opt_spec=own.optimizer)
  before = saved.digest(state, {})
  batch = arrays.from_own_rows(make_batch(), ROWS)
  static = dict(
    model=own.body, loss_spec=own.loss, opt_spec=own.optimizer, accumulate=2
  )
  args = batch, jax.random.key(1)
  text = train_step.lower(state, *args, **static).compile().as_text()
  losses = []
  for _ in range(steps):
    state, metrics = train_step(state, *args, **static)
    losses.append(float(metrics['loss']))
  return before, state, losses, text


def evaluated():
  """Loss of all readouts, and where tokens exit."""
  model = tiny.stack(vocab_size=VOCAB, num_layers=2)

  def batches():
    return [make_batch()]

  own = arrays.put_state(tiny.params(model))
  dump = passes.grid_dump(model, own, batches, ('max_prob',))
  # Between two tokens, so that rounding moves nobody over it.
  scores = np.sort(dump.score_KxRxT['max_prob'][0].reshape(-1))
  middle = float(scores[len(scores) // 2 - 1 :][:2].mean())
  point = OperatingPoint('max_prob', 'copy_state', middle, 'token')
  found = traces.trace(model, own, batches, dump, point)
  return dump.nll_KxRxT, found.nll_RxT, found.exit_RxT


def furthest(a, b):
  """The largest difference of two trees."""
  gaps = jax.tree.map(lambda x, y: np.abs(x - y).max(), a, b)
  return float(max(jax.tree.leaves(gaps)))


def bytes_on_one(tree):
  """Of all arrays of a tree, on the first device."""
  first = jax.devices()[0]
  return sum(
    shard.data.nbytes
    for x in jax.tree.leaves(tree)
    for shard in x.addressable_shards
    if shard.device == first
  )


def gathered(text):
  """Numbers in the largest array that devices put together."""
  shapes = re.findall(r'\[([\d,]+)\]\S* all-gather', text)
  sizes = [np.prod([int(n) for n in shape.split(',')]) for shape in shapes]
  return int(max(sizes, default=0))


def moved(state, here, there):
  """A state that was saved on a mesh, read on another one; None = one device.

  Returns:
    The state, and whether every bit is the same.
  """
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state
  )
  with tempfile.TemporaryDirectory() as folder:
    with sharding.using(here):
      with checkpoint.Checkpoints(folder, keep=1) as checkpoints:
        checkpoints.save(1, state, {}, saved.Host())
    with sharding.using(there):
      restored = checkpoint.restore_best(folder, abstract).state
  pairs = jax.tree.map(np.array_equal, *jax.device_get((restored, state)))
  return restored, all(jax.tree.leaves(pairs))


def on_eight_devices():
  """What the process of the tests does: prints facts, one JSON object."""
  # So few that the tokens of each device are several chunks.
  chunks.MIN_TOKENS = 1
  chunks.CHUNK_ELEMENTS = ROWS // 2 * LENGTH * VOCAB // 16
  own = run_specs()
  before, state_1, losses, _ = trained(own)
  wanted = jax.device_get(state_1)
  facts = {'devices': jax.device_count()}
  for name, spec in MESHES.items():
    mesh = sharding.make_mesh(spec, jax.devices())
    with sharding.using(mesh):
      first, state, curve, text = trained(own)
      fact = {
        'same_start': first == before,
        'losses': furthest(np.array(curve), np.array(losses)),
        'state': furthest(arrays.get(state), wanted),
        'share': bytes_on_one(state) / bytes_on_one(state_1),
        'gathered': gathered(text),
      }
    on_one, same = moved(state, mesh, None)
    fact['to_one'] = same and len(on_one.step.devices()) == 1
    on_mesh, same = moved(state_1, None, mesh)
    places = {k: x.sharding for k, x in leaves(on_mesh.params).items()}
    kept = {k: x.sharding for k, x in leaves(state.params).items()}
    fact['from_one'] = same and places == kept
    facts[name] = fact

  seen = evaluated()
  with sharding.using(mesh):
    nll, masked, exits = evaluated()
  facts['evaluation'] = {
    'nll': furthest(nll, seen[0]),
    'masked': furthest(masked, seen[1]),
    'exits': float((exits == seen[2]).mean()),
    'stop_early': float((exits < 1).mean()),
  }
  facts['methods'] = mesh_methods.differences(mesh, mesh_methods.QUICK)
  print(json.dumps(facts))


def other_methods():
  """What another process does for tests that few ask for."""
  mesh = sharding.make_mesh(MESHES['all'], jax.devices())
  print(json.dumps(mesh_methods.differences(mesh, mesh_methods.OTHERS)))


def said(function):
  """What a function of this file prints last, in a process of 8 devices."""
  flags = os.environ.get('XLA_FLAGS', '')
  done = subprocess.run(
    [sys.executable, '-c', f'import test_mesh; test_mesh.{function}()'],
    cwd=HERE,
    env=os.environ
    | {
      'XLA_FLAGS': f'{flags} --xla_force_host_platform_device_count=8',
      'JAX_PLATFORMS': 'cpu',
      'PYTHONPATH': os.pathsep.join([str(HERE.parent), str(HERE)]),
    },
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope='module')
def facts():
  found = said('on_eight_devices')
  assert found['devices'] == 8
  return found


@pytest.fixture(scope='module')
def others():
  return said('other_methods')


every_mesh = pytest.mark.parametrize('name', MESHES)


@every_mesh
def test_training_on_a_mesh_is_training_on_one_device(facts, name):
  fact = facts[name]
  assert fact['same_start']
  assert fact['losses'] < CLOSE
  assert fact['state'] < CLOSE  # with all that the optimizer remembers


@pytest.mark.parametrize('method', mesh_methods.QUICK)
def test_a_method_on_a_mesh_is_that_on_one_device(facts, method):
  assert facts['methods'][method] < CLOSE


@pytest.mark.parametrize('method', mesh_methods.OTHERS)
def test_so_is_each_other_method(others, method):
  assert others[method] < CLOSE


def test_evaluation_on_a_mesh_is_that_on_one_device(facts):
  fact = facts['evaluation']
  assert fact['nll'] < CLOSE
  assert fact['masked'] < CLOSE
  assert fact['exits'] == 1
  assert 0.1 < fact['stop_early'] < 0.9


@every_mesh
def test_a_checkpoint_goes_from_mesh_to_mesh(facts, name):
  assert facts[name]['to_one']
  assert facts[name]['from_one']


def test_fsdp_leaves_each_device_its_part(facts):
  assert facts['data']['share'] == 1
  assert facts['fsdp']['share'] <= 0.2
  assert facts['all']['share'] <= 0.35  # four parts, and vectors


@every_mesh
def test_devices_put_parameters_together_and_no_states(facts, name):
  """A table is the largest; of tokens, a number of each goes round."""
  spec = MESHES[name]
  table = VOCAB * DIM // spec.tensor if spec.fsdp > 1 else 0
  tokens = ROWS // 2 * LENGTH  # of a micro-batch
  assert facts[name]['gathered'] <= max(table, tokens)
