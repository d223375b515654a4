"""Time and memory of one update by the number of segments.

  python benchmarks/segments.py [--rounds=N]

Three ways to the same gradient: differentiated inside the scan (detached
segments), through a checkpointed scan (all segments joined), and a plain
Python loop with detached segments. L=4, D=128, T=64, B=12, byte vocabulary.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
from timing import side_by_side

from ease_jax import config, specs
from ease_jax.core.objective import LossSpec
from ease_jax.train import loss as losses
from ease_jax.train import segment
from ease_jax.train import setting as setting_lib

SEGMENTS = (1, 2, 4, 8)


def make(segments: int, backprop: int):
  c = config.base()
  c.model.body = 'refine'
  c.model.segments = segments
  c.model.num_layers = 4
  c.model.readouts = (4,)
  c.model.carry_backprop = backprop
  model = specs.from_config(c, 256).body
  spec = LossSpec((1.0,) * segments, segments=segments, carry_backprop=backprop)
  return model, spec


def looped(params, model, spec, batch):
  """Segment after segment in Python, detached."""
  update_key = jax.random.key(0)
  setting = setting_lib.prepared(params, model, spec, batch, update_key)
  grad = jax.grad(segment.segment_loss, has_aux=True)
  progress = segment.first_progress(model, batch)
  total = jax.tree.map(jnp.zeros_like, params)
  for number in range(spec.segments):
    place = jnp.int32(number)
    key = jax.random.key(number)
    part = setting_lib.Part(place, place, jnp.ones(1), key)
    grads, (progress, _) = grad(params, progress, part, setting)
    total = jax.tree.map(jnp.add, total, grads)
  return total


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--rounds', type=int, default=10)
  rounds = parser.parse_args().rounds
  rng = np.random.default_rng(0)
  window = rng.integers(0, 256, (12, 65)).astype(np.int32)
  batch = {
    'tokens': window[:, :-1],
    'targets': window[:, 1:],
    'mask': np.ones((12, 64), np.float32),
  }
  runs, memory = {}, {}
  params = make(1, 1)[0].init(jax.random.key(0), batch['tokens'])['params']
  for s in SEGMENTS:
    for name, backprop in (('in the scan', 1), ('joined', s), ('loop', 1)):
      model, spec = make(s, backprop)
      if name == 'loop':

        def f(p, m=model, sp=spec):
          return looped(p, m, sp, batch)
      else:

        def f(p, m=model, sp=spec):
          return losses.grid_gradient(p, m, sp, batch, 0, jax.random.key(0))[0]

      compiled = jax.jit(f).lower(params).compile()
      key = f'{name}, S={s}'
      memory[key] = compiled.memory_analysis().temp_size_in_bytes / 2**20
      runs[key] = functools.partial(compiled, params)
  times = side_by_side(runs, rounds)
  base = times['in the scan, S=1'][0]
  print('| way | ' + ' | '.join(f'S={s}' for s in SEGMENTS) + ' |')
  print('|---|' + '---|' * len(SEGMENTS))
  for name in ('in the scan', 'joined', 'loop'):
    cells = [
      f'{times[k][0] / base:.2f} ± {times[k][1] / base:.2f} × time, '
      f'{memory[k]:.0f} MiB'
      for k in (f'{name}, S={s}' for s in SEGMENTS)
    ]
    print(f'| {name} | ' + ' | '.join(cells) + ' |')


if __name__ == '__main__':
  main()
