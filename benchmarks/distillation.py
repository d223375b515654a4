"""Time and memory of a loss that a teacher takes part in, beside the label's.

  python benchmarks/distillation.py [--rounds=N] [--vocab=V ...]

One readout, value and gradient by states and unembedding: the label alone; the
label and a teacher's whole distribution, fused; the same on the teacher's
likeliest 32 tokens, which are found anew for it; and the definition, with all
logits of both sides. N=2,048 tokens, D=128. Memory is what XLA sets aside
beside inputs and results.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
from timing import side_by_side

from ease_jax.core.distillation import TeachingSpec
from ease_jax.core.objective import LossSpec
from ease_jax.model import readout
from ease_jax.model.linear_loss import linear_cross_entropy, linear_loss
from ease_jax.train.targets import Distill

NUM, DIM, TOP_K = 2048, 128, 32


def fused(spec, h_NxD, w_VxD, teacher_NxD, label_N, weight_N):
  top_k = spec.teaching.teacher_top_k
  said = readout.likeliest(teacher_NxD, w_VxD, top_k) if top_k else teacher_NxD
  ready_N = label_N, said
  lesson = Distill(spec).lesson(w_VxD, False)
  return linear_loss(lesson, h_NxD, w_VxD, ready_N, weight_N)


def label(h_NxD, w_VxD, teacher_NxD, label_N, weight_N):
  del teacher_NxD
  return linear_cross_entropy(h_NxD, w_VxD, label_N, weight_N)


def definition(h_NxD, w_VxD, teacher_NxD, label_N, weight_N):
  log_q_NxV = jax.nn.log_softmax(readout.logits(h_NxD, w_VxD))
  teacher_NxV = jax.lax.stop_gradient(readout.logits(teacher_NxD, w_VxD))
  log_p_NxV = jax.nn.log_softmax(teacher_NxV)
  far_N = (jnp.exp(log_p_NxV) * (log_p_NxV - log_q_NxV)).sum(-1)
  nll_N = -jnp.take_along_axis(log_q_NxV, label_N[:, None], 1)[:, 0]
  return weight_N @ (0.5 * nll_N + 0.5 * far_N)


def taught(top_k: int):
  teaching = TeachingSpec('distill', teacher_top_k=top_k)
  spec = LossSpec((1.0, 1.0), teaching=teaching)
  return functools.partial(fused, spec)


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('--rounds', type=int, default=10)
  parser.add_argument(
    '--vocab', type=int, nargs='+', default=[256, 8192, 32768]
  )
  options = parser.parse_args()
  rng = np.random.default_rng(0)
  ways = {
    'label': label,
    'taught': taught(0),
    f'taught, top {TOP_K}': taught(TOP_K),
    'by definition': definition,
  }
  print('| V | ' + ' | '.join(ways) + ' |')
  print('|---|' + '---|' * len(ways))

  for vocab_size in options.vocab:
    h_NxD, teacher_NxD = rng.normal(size=(2, NUM, DIM)).astype(np.float32)
    w_VxD = rng.normal(0, 0.1, (vocab_size, DIM)).astype(np.float32)
    label_N = rng.integers(0, vocab_size, NUM).astype(np.int32)
    weight_N = np.full(NUM, 1 / NUM, np.float32)
    arrays = [h_NxD, w_VxD, teacher_NxD, label_N, weight_N]
    arrays = [jnp.asarray(x) for x in arrays]
    runs, memory = {}, {}

    for name, way in ways.items():
      step = jax.jit(jax.value_and_grad(way, (0, 1)))
      compiled = step.lower(*arrays).compile()
      memory[name] = compiled.memory_analysis().temp_size_in_bytes / 2**20
      runs[name] = functools.partial(compiled, *arrays)

    seconds = side_by_side(runs, options.rounds)
    base, _ = seconds['label']
    cells = [
      f'{seconds[name][0] / base:.2f} × time, {memory[name]:.0f} MiB'
      for name in ways
    ]
    print(f'| {vocab_size} | ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
  main()
