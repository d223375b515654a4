"""What a training step costs: beside torch, by its losses, and in memory.

  pip install torch    # for its rows only
  python benchmarks/train.py [--quick] [--rounds=N] [--out=FILE]

Every figure is a ratio of medians of one run in which all contenders of a shape
take turns, warmed up. Torch is nanoGPT's model in eager mode
(`torch_gpt.py`); what updates add to the resident memory of a process of its
own, gradients and moments included, is its peak.
Ours is a stack with the same widths, RMS norms and rotary positions. Memory of
ours is XLA's count of temporary buffers of a step. `--quick`: the small shape,
and the vocabulary of 97 alone at the other, with few rounds.
"""

import argparse
import importlib.util
import json
import pathlib
import subprocess
import sys
from typing import NamedTuple

from ease_jax import machine

machine.keep_mapped()  # before JAX

import jax  # noqa: E402
import numpy as np  # noqa: E402
from timing import side_by_side  # noqa: E402

import ease_jax  # noqa: E402
from ease_jax import specs  # noqa: E402
from ease_jax.train import update  # noqa: E402


class Shape(NamedTuple):
  """Of a model and of its batches."""

  layers: int
  dim: int
  heads: int
  length: int
  rows: int
  vocab: int

  def __str__(self) -> str:
    return (
      f'L={self.layers} D={self.dim} T={self.length} B={self.rows} '
      f'V={self.vocab}'
    )


SMALL = Shape(4, 128, 4, 64, 12, 65)
MIDDLE = Shape(8, 256, 8, 256, 8, 97)
LARGE_VOCABULARY = MIDDLE._replace(vocab=8192)
LONG = LARGE_VOCABULARY._replace(length=2048, rows=1)
SEGMENTS = 8
MIB = 2**20


def batch_of(shape: Shape) -> dict[str, np.ndarray]:
  """Random tokens."""
  rng = np.random.default_rng(0)
  window = rng.integers(0, shape.vocab, (shape.rows, shape.length + 1))
  return {
    'tokens': window[:, :-1].astype(np.int32),
    'targets': window[:, 1:].astype(np.int32),
    'mask': np.ones((shape.rows, shape.length), np.float32),
  }


class Trainer:
  """Calls make one update each; compiled when it is made."""

  def __init__(
    self,
    shape: Shape,
    *,
    weights: str = 'final',
    token_fraction: float = 1.0,
    segments: int = 1,
  ):
    c = ease_jax.base()
    c.model.num_layers = shape.layers
    c.model.dim = shape.dim
    c.model.block.attention.num_heads = shape.heads
    c.model.block.attention.num_kv_heads = shape.heads
    c.model.block.mlp.dim = 4 * shape.dim
    c.data.seq_len = shape.length
    c.train.batch_size = shape.rows
    c.loss.weights = weights
    c.loss.token_fraction = token_fraction
    if segments > 1:
      c.model.body = 'refine'
      c.model.segments = segments
      c.model.readouts = (shape.layers,)
      c.loss.weights = 'segment_ends'
    found = specs.from_config(c, shape.vocab)

    self.key = jax.random.key(0)
    self.batch = batch_of(shape)
    self.state = update.init_state(
      self.key, model=found.body, opt_spec=found.optimizer
    )
    lowered = update.train_step.lower(
      self.state,
      self.batch,
      self.key,
      model=found.body,
      loss_spec=found.loss,
      opt_spec=found.optimizer,
      accumulate=1,
    )
    self.step = lowered.compile()

  @property
  def memory(self) -> float:
    """MiB of temporary buffers."""
    return self.step.memory_analysis().temp_size_in_bytes / MIB

  def __call__(self):
    self.state, metrics = self.step(self.state, self.batch, self.key)
    return self.state, metrics


def torch_trainer(shape: Shape):
  """Of the same batches."""
  import torch_gpt

  batch = batch_of(shape)
  return torch_gpt.Trainer(
    shape.layers,
    shape.dim,
    shape.heads,
    shape.vocab,
    shape.length,
    tokens=batch['tokens'].astype(np.int64),
    targets=batch['targets'].astype(np.int64),
  )


def torch_memory(shape: Shape) -> float:
  """MiB that three updates of torch add to a process, at its peak."""
  command = [sys.executable, __file__, f'--torch-memory={json.dumps(shape)}']
  done = subprocess.run(command, check=True, capture_output=True, text=True)
  return float(done.stdout)


def print_torch_memory(shape: Shape) -> None:
  """What `torch_memory` asks its process for."""
  trainer = torch_trainer(shape)
  # The peak so far is that of imports: from here on it counts anew (Linux).
  pathlib.Path('/proc/self/clear_refs').write_text('5')
  before = resident('VmRSS')
  for _ in range(3):
    trainer()
  print(resident('VmHWM') - before)


def resident(name: str) -> float:
  """MiB of this process: VmRSS now, VmHWM at its peak."""
  for line in pathlib.Path('/proc/self/status').read_text().splitlines():
    if line.startswith(f'{name}:'):
      return float(line.split()[1]) / 1024
  raise OSError(f'/proc/self/status has no {name}')


def measure(shape: Shape, rounds: int, has_torch: bool) -> dict[str, float]:
  """All figures of a shape."""
  contenders = {
    'standard': Trainer(shape),
    'all readouts': Trainer(shape, weights='uniform'),
    'all readouts, 1/8': Trainer(
      shape, weights='uniform', token_fraction=1 / 8
    ),
  }
  memory = {name: step.memory for name, step in contenders.items()}
  if has_torch:
    contenders['torch'] = torch_trainer(shape)
  times = side_by_side(contenders, rounds)

  standard = times['standard'][0]
  tokens = shape.rows * shape.length
  figures = {
    'tokens/s, standard loss': tokens / standard,
    '... interquartile range': times['standard'][1] / standard,
    'temporary memory, standard loss, MiB': memory['standard'],
  }
  if has_torch:
    torch_time, spread = times['torch']
    figures['times as fast as torch'] = torch_time / standard
    figures["... torch's interquartile range"] = spread / torch_time
    figures["torch's peak, MiB"] = torch_memory(shape)
  for name in ('all readouts', 'all readouts, 1/8'):
    figures[f'{name}: step / standard'] = times[name][0] / standard
    figures[f'{name}: memory / standard'] = memory[name] / memory['standard']
  return figures


def measure_segments(shape: Shape, rounds: int) -> dict[str, float]:
  """Refinement with a loss behind each of its runs."""
  once = Trainer(shape)
  often = Trainer(shape, segments=SEGMENTS)
  times = side_by_side({'once': once, 'often': often}, rounds)
  ratio = times['often'][0] / times['once'][0]
  return {
    f'S={SEGMENTS}: step / ({SEGMENTS} x standard)': ratio / SEGMENTS,
    f'S={SEGMENTS}: memory / standard': often.memory / once.memory,
  }


def measure_length() -> dict[str, float]:
  """Memory of long windows; nothing is run."""
  long = Trainer(LONG).memory
  return {
    'T=2048 B=1: memory, MiB': long,
    '... / T=256 B=8': long / Trainer(LARGE_VOCABULARY).memory,
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--quick', action='store_true')
  parser.add_argument('--rounds', type=int, default=0)
  parser.add_argument('--out', type=pathlib.Path, default=None)
  parser.add_argument('--torch-memory', default=None, help=argparse.SUPPRESS)
  options = parser.parse_args()
  if options.torch_memory:
    print_torch_memory(Shape(*json.loads(options.torch_memory)))
    return

  has_torch = importlib.util.find_spec('torch') is not None
  if not has_torch:
    print('torch is not installed: its rows are left out')
  rounds = options.rounds or (3 if options.quick else 9)
  shapes = [SMALL, MIDDLE]
  if not options.quick:
    shapes.append(LARGE_VOCABULARY)

  found = {}
  for shape in shapes:
    found[str(shape)] = measure(shape, rounds, has_torch)
    show(str(shape), found[str(shape)])
  name = f'refinement, {SMALL}'
  found[name] = measure_segments(SMALL, rounds)
  show(name, found[name])
  found['long windows'] = measure_length()
  show('long windows', found['long windows'])

  if options.out:
    options.out.write_text(json.dumps(found, indent=2) + '\n')


def show(title: str, figures: dict[str, float]) -> None:
  """Prints a table of one shape."""
  print(f'\n{title}')
  for name, value in figures.items():
    digits = 0 if value >= 100 else 2
    print(f'  {name:40} {value:10,.{digits}f}')
  sys.stdout.flush()


if __name__ == '__main__':
  main()
