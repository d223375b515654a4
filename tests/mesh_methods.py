"""Methods that are tried on a mesh: a config of each, and its losses."""

import jax
import numpy as np
import training

import tiny
from ease_jax import arrays, sharding, specs
from ease_jax.train import targets
from ease_jax.train.stages import updating
from ease_jax.train.update import init_state

ROWS, LENGTH, VOCAB = 16, 8, 64
STEPS = 3
TAUGHT_BY = tiny.body(VOCAB, num_layers=1, dim=16)

# Changes by the path of a field, where `test_mesh.run_specs` has others.
METHODS = {
  'refine, per segment': {
    'model.body': 'refine',
    'model.num_layers': 1,
    'model.segments': 2,
    'model.refine.carry_init': 'random',
    'train.updates': 'per_segment',
  },
  'refine, per segment, prelude, gate, muon': {
    'model.body': 'refine',
    'model.segments': 3,
    'model.refine.inject': 'gate',
    'model.refine.carry_init': 'random',
    'model.refine.prelude': 1,
    'train.updates': 'per_segment',
    'optimizer.name': 'muon',
  },
  'refine, carry_backprop, coda': {
    'model.body': 'refine',
    'model.segments': 3,
    'model.carry_backprop': 2,
    'model.refine.inject': 'concat',
    'model.refine.coda': 1,
    'exit.signals': ('state_change',),
    'model.refine.per_run': 'lora',
    'model.refine.rank': 4,
    'train.accumulate': 2,
  },
  'refine, rows that differ': {
    'model.body': 'refine',
    'model.segments': 2,
    'model.refine.carry_init': 'random',
    'model.dropout': 0.0,
    'loss.weights': 'final',
    'train.runs': 'drawn_rows',
    'train.accumulate': 2,
  },
  'hrm, q_halt': {
    'model.body': 'hrm',
    'model.segments': 2,
    'model.block.norm': 'post',
    'model.hrm.carry_init': 'fixed',
    'model.readouts': (),
    'train.updates': 'per_segment',
    'loss.weights': 'segment_ends',
    'loss.gates': ('q_halt',),
    'optimizer.layer_decay': 1.0,
  },
  'cycle, mor': {
    'model.body': 'cycle',
    'model.num_layers': 6,
    'model.router': 'mor',
    'model.cycle.own': 0,
  },
  'mod': {'model.router': 'mod', 'model.mod.capacity': 0.5},
  'gates': {'loss.gates': ('gain', 'dat', 'calm'), 'train.accumulate': 2},
  'ouro': {
    'model.body': 'refine',
    'model.segments': 2,
    'loss.gates': ('ouro',),
    'loss.gate_weighs': True,
  },
  'a teacher, lora': {
    'model.lora_rank': 4,
    'train.freeze': 'lora',
    'train.init_from': 'elsewhere',
    'loss.target': 'distill',
    'loss.teacher': 'elsewhere',
    'loss.teacher_top_k': 4,
    'train.accumulate': 2,
  },
  'its own teacher': {'loss.target': 'distill', 'loss.token_fraction': 0.5},
  'cached batches': {
    'model.readout_adapters': ('map', 'mlp'),
    'model.readout_dim': 4,
    'model.readout_norm': 'per_readout',
    'model.dropout': 0.0,
    'train.init_from': 'elsewhere',
    'train.freeze': 'exits',
    'train.cached_batches': 2,
    'loss.gates': ('gain',),
  },
  'layer dropout': {
    'train.layer_dropout': 0.5,
    'train.layer_dropout_shape': 'uniform',
    'train.accumulate': 2,
    'optimizer.name': 'muon',
  },
  'exits while training, remat': {
    'loss.exit_threshold': 0.02,
    'model.remat': True,
  },
}

# The others are repetitions: `make test-all` runs them too.
QUICK = (
  'refine, per segment',
  'a teacher, lora',
  'cached batches',
)
OTHERS = tuple(name for name in METHODS if name not in QUICK)


def specs_of(name):
  """The checked specs of a method; everything can be cut into two."""
  c = training.make_config(batch_size=ROWS, accumulate=1)
  c.model.block.attention.num_kv_heads = 2
  c.loss.schedule = 'constant'
  c.loss.token_fraction = 1.0
  c.update_from_flattened_dict(METHODS[name])
  return specs.from_config(c, VOCAB)


def losses(name):
  """Of a few updates of a method, on the mesh that there is."""
  own = specs_of(name)
  teacher = None
  if own.loss.teaching.run:
    params = arrays.put_state(tiny.params(TAUGHT_BY))
    teacher = targets.Teacher(TAUGHT_BY, params)
  state = init_state(jax.random.key(0), model=own.body, opt_spec=own.optimizer)
  update = updating(
    own.train,
    own.body,
    own.loss,
    seed=0,
    key=jax.random.key(1),
    teacher=teacher,
    opt_spec=own.optimizer,
  )
  found = []
  for step in range(STEPS):
    rows = tiny.batch(ROWS, LENGTH, VOCAB, seed=step % 2)
    rows['mask'][3, 2:] = 0
    batch = arrays.from_own_rows(rows, ROWS)
    state, metrics = update(step, state, batch)
    found.append([metrics['loss'], metrics['grad_norm']])
  return np.array(jax.device_get(found), np.float64)


def differences(mesh, names):
  """How far some methods are on a mesh from one device, by name.

  Returns:
    The largest difference of a loss or the norm of a gradient, relative to it.
  """
  found = {}
  for name in names:
    alone = losses(name)
    with sharding.using(mesh):
      together = losses(name)
    found[name] = float(np.abs(together / alone - 1).max())
  return found
