"""Time of an update with routers over that without, and what FLOPs promise.

  python benchmarks/routers.py [--rounds=N]

The quickstart's shape with the final loss alone: 8 layers of width 96, 16
windows of 128 tokens. Contenders take turns; a ratio is the median over rounds
of one round's two times.
"""

import argparse
import functools
import statistics
import time

import jax
import numpy as np

from ease_jax import presets, specs
from ease_jax.model import routed
from ease_jax.train import update

VOCAB = 257
PLAIN = 'none'
# Fields of the config, by contender.
WAYS = {
  PLAIN: {},
  'mod, capacity 1/8': {'model.router': 'mod'},
  'mod, capacity 1/2': {'model.router': 'mod', 'model.mod.capacity': 0.5},
  'mod, capacity 1/8, every layer': {
    'model.router': 'mod',
    'model.mod.every': 1,
  },
  'layer dropout 0.2': {'train.layer_dropout': 0.2},
  'layer dropout 0.5': {'train.layer_dropout': 0.5},
  'layer dropout 0.5 in all layers': {
    'train.layer_dropout': 0.5,
    'train.layer_dropout_shape': 'uniform',
  },
}


def specs_of(changes):
  c = presets.standard(8)
  c.update_from_flattened_dict(changes)
  return specs.from_config(c, VOCAB)


def updating(run_specs):
  """A function that makes one update, again and again."""
  train = run_specs.train
  shape = train.batch_size, run_specs.data.seq_len
  rng = np.random.default_rng(0)
  batch = {
    'tokens': rng.integers(0, VOCAB, shape).astype(np.int32),
    'targets': rng.integers(0, VOCAB, shape).astype(np.int32),
    'mask': np.ones(shape, np.float32),
  }
  model = run_specs.body
  step = functools.partial(
    update.train_step,
    key=jax.random.key(0),
    model=routed(model, train.layer_dropout_at(0)),
    loss_spec=run_specs.loss,
    opt_spec=run_specs.optimizer,
    accumulate=train.accumulate,
  )
  state = update.init_state(
    jax.random.key(0), model=model, opt_spec=run_specs.optimizer
  )

  def run():
    nonlocal state
    state, metrics = step(state, batch)
    return metrics['loss']

  return run


def seconds(run) -> float:
  start = time.perf_counter()
  jax.block_until_ready(run())
  return time.perf_counter() - start


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--rounds', type=int, default=10)
  rounds = parser.parse_args().rounds

  made = {name: specs_of(changes) for name, changes in WAYS.items()}
  runs = {name: updating(run_specs) for name, run_specs in made.items()}
  for run in runs.values():
    seconds(run)  # compiles

  ratios = {name: [] for name in runs}
  for _ in range(rounds):
    times = {name: seconds(run) for name, run in runs.items()}
    for name, spent in times.items():
      ratios[name].append(spent / times[PLAIN])

  print('| router | time of an update | its FLOPs |')
  print('|---|---|---|')
  for name, of_name in ratios.items():
    low, middle, high = statistics.quantiles(of_name, n=4)
    flops = made[name].train_flops / made[PLAIN].train_flops
    print(f'| {name} | {middle:.2f} [{low:.2f}, {high:.2f}] | {flops:.2f} |')


if __name__ == '__main__':
  main()
