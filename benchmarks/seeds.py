"""Does it pay to train several seeds of a small model together under vmap?

  python benchmarks/seeds.py [--rounds=N]

One update of each of five seeds: one after another, or one vmapped update.
"""

import argparse
import functools

import jax
import numpy as np
from timing import side_by_side

from ease_jax import config, specs
from ease_jax.train import update

SEEDS = 5
SHAPES = {  # name -> (layers, width, tokens in a window, windows)
  'L=1 D=16 T=32 B=4': (1, 16, 32, 4),
  'L=1 D=64 T=64 B=16': (1, 64, 64, 16),
  'L=4 D=64 T=64 B=16': (4, 64, 64, 16),
  'L=8 D=96 T=128 B=16': (8, 96, 128, 16),
}


def make(layers, dim, length, rows):
  c = config.base()
  c.model.num_layers = layers
  c.model.dim = dim
  c.model.block.mlp.dim = 4 * dim
  c.model.block.attention.num_heads = 2
  c.model.block.attention.num_kv_heads = 2
  c.model.readouts = (layers,)
  run_specs = specs.from_config(c, 100)
  model = run_specs.body
  opt_spec = run_specs.optimizer
  loss_spec = run_specs.loss
  # Not donated: the same state again in every round.
  step = functools.partial(
    update.train_step.__wrapped__,
    model=model,
    loss_spec=loss_spec,
    opt_spec=opt_spec,
    accumulate=1,
  )
  rng = np.random.default_rng(0)
  window = rng.integers(0, 100, (SEEDS, rows, length + 1)).astype(np.int32)
  batch = {
    'tokens': window[..., :-1],
    'targets': window[..., 1:],
    'mask': np.ones((SEEDS, rows, length), np.float32),
  }
  keys = jax.random.split(jax.random.key(0), SEEDS)
  init = functools.partial(update.init_state, model=model, opt_spec=opt_spec)
  states = jax.vmap(init)(keys)

  def pick(tree, i):
    return jax.tree.map(lambda x: x[i], tree)

  singles = [(pick(states, i), pick(batch, i), keys[i]) for i in range(SEEDS)]
  one, all_ = jax.jit(step), jax.jit(jax.vmap(step))
  return {
    'one after another': lambda: [one(*args) for args in singles],
    'vmap': lambda: all_(states, batch, keys),
  }


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--rounds', type=int, default=20)
  rounds = parser.parse_args().rounds
  print('| shape | five updates one by one | vmapped | vmap is faster by |')
  print('|---|---|---|---|')
  for name, shape in SHAPES.items():
    times = side_by_side(make(*shape), rounds)
    (a, a_iqr), (b, b_iqr) = times['one after another'], times['vmap']
    print(
      f'| {name} | {1e3 * a:.1f} ± {1e3 * a_iqr:.1f} ms '
      f'| {1e3 * b:.1f} ± {1e3 * b_iqr:.1f} ms | × {a / b:.2f} |',
      flush=True,
    )


if __name__ == '__main__':
  main()
